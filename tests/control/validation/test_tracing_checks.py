"""control/validation/tracing_checks.py: what of tracing is refused, and where it is said; and of the mesh configuration's collectors."""

import pytest

from control.validation.document import read_documents
from tests.control.envoy.test_access_logs import config


def errors(text: str) -> list[str]:
    (document,) = read_documents(text, "test.yaml", "istio-system")
    return [str(finding) for finding in document.findings if finding.severity == "error"]


def telemetry(entry: str) -> str:
    return f"""
kind: Telemetry
apiVersion: telemetry.istio.io/v1
metadata: {{name: a, namespace: shop}}
spec: {{tracing: [{entry}]}}
"""


@pytest.mark.parametrize(
    "entry",
    [
        "{}",
        "{providers: [{name: otlp}], randomSamplingPercentage: 0.01, disableSpanReporting: false, useRequestIdForTraceSampling: false}",
        "{customTags: {a: {literal: {value: b}}, c: {header: {name: x-user}}}, enableIstioTags: true}",
        "{customTags: {d: {formatter: {value: '%REQ(:AUTHORITY)%'}}}}",
    ],
)
def test_what_is_taken(entry: str) -> None:
    assert errors(telemetry(entry)) == []


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        ("{providers: [{name: a}, {name: b}]}", "spans go to one provider"),
        ("{providers: [{name: ''}]}", "an empty name"),
        ("{randomSamplingPercentage: 100.1}", "no percentage"),
        ("{randomSamplingPercentage: -1}", "no percentage"),
        ("{disableContextPropagation: true}", "hands on the context"),
        ("{customTags: {a: {environment: {name: TOKEN}}}}", "environment is shown to nobody"),
        ("{customTags: {a: {}}}", "one of literal, header, formatter"),
        ("{customTags: {a: {literal: {value: b}, header: {name: c}}}}", "one of literal, header, formatter"),
        ("{customTags: {a: {literal: {value: ''}}}}", "1 to 1024 characters"),
        ("{customTags: {a: {formatter: {value: '%ENVIRONMENT(TOKEN)%'}}}}", "no operator"),
        ("{customTags: {a: {header: {name: 'a b'}}}}", "no header's name"),
        ("{customTags: {'': {literal: {value: b}}}}", "no name of a tag"),
        ("{customTag: {}}", "customTag"),
    ],
)
def test_what_is_refused(entry: str, what: str) -> None:
    (found,) = errors(telemetry(entry))
    assert what in found


def test_tags_are_bounded() -> None:
    tags = ", ".join(f"t{number}: {{literal: {{value: a}}}}" for number in range(65))
    (found,) = errors(telemetry(f"{{customTags: {{{tags}}}}}"))
    assert "more than 64 tags" in found


@pytest.mark.parametrize(
    ("mesh", "what"),
    [
        ("extensionProviders: [{name: a, zipkin: {service: 'http://a', port: 1}}]", "'http:/'"),
        ("extensionProviders: [{name: a, zipkin: {service: a.b, port: 0}}]", "port"),
        ("extensionProviders: [{name: a, zipkin: {service: a.b, port: 1, path: 'api v2'}}]", "begins with /"),
        ("extensionProviders: [{name: a, zipkin: {service: a.b, port: 1, maxTagLength: -1}}]", "no length"),
        ("extensionProviders: [{name: a, opentelemetry: {service: a.b, port: 1, http: {path: /, timeout: soon}}}]", "soon"),
        ("extensionProviders: [{name: a, opentelemetry: {service: a.b, port: 1, http: {}, grpc: {}}}]", "either http or grpc"),
        (
            "extensionProviders: [{name: a, opentelemetry: {service: a.b, port: 1, http: {headers: [{name: a, envName: B}]}}}]",
            "environment",
        ),
        (
            "extensionProviders: [{name: a, opentelemetry: {service: a.b, port: 1, grpc: {initialMetadata: [{name: ':path'}]}}}]",
            "no header's name",
        ),
        ("extensionProviders: [{name: a, envoyOtelAls: {service: a.b, port: 1, logFormat: {text: '%ENVIRONMENT(A)%'}}}]", "no operator"),
        (
            "extensionProviders: [{name: a, envoyHttpAls: {service: a.b, port: 1, additionalRequestHeadersToLog: ['a b']}}]",
            "no header's name",
        ),
        ("extensionProviders: [{name: a, envoyTcpAls: {service: a.b, port: 70000}}]", "port"),
        ("defaultConfig: {tracing: {sampling: 101}}", "no percentage"),
        ("defaultConfig: {tracing: {zipkin: {address: zipkin}}}", "no host:port"),
        ("defaultConfig: {tracing: {customTags: {a: {environment: {name: B}}}}}", "environment is shown to nobody"),
    ],
)
def test_what_is_refused_of_the_mesh_configuration(mesh: str, what: str) -> None:
    found = errors(config(mesh))
    assert any(what in one for one in found), found
