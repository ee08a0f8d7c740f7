"""What a VirtualService says wrongly is told with its line, and a condition that is not understood never falls away."""

import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.kinds import VirtualService
from control.validation.document import Document, read_documents
from control.validation.finding import Severity
from control.validation.routing_checks import MAX_REGEXES, covering

HEAD = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v, namespace: shop}\nspec:\n"


def read(spec: str) -> Document:
    return read_documents(HEAD + textwrap.indent(textwrap.dedent(spec).strip("\n"), "  ") + "\n", "f.yaml", "istio-system")[0]


def errors(spec: str) -> list[str]:
    return [finding.what for finding in read(spec).findings if finding.severity is Severity.ERROR]


def warnings(spec: str) -> list[str]:
    return [finding.what for finding in read(spec).findings if finding.severity is Severity.WARNING]


def http(route: str) -> str:
    """A specification with one route, which is given as a flow map."""
    return f"hosts: [reviews]\nhttp: [{route}]"


TO = "route: [{destination: {host: reviews}}]"


def test_everything_that_istio_has_is_read() -> None:
    found = read("""
        hosts: [reviews, "*.example.com", 10.0.0.1]
        gateways: [mesh, edge, infra/edge]
        exportTo: [., other]
        http:
        - name: first
          match:
          - uri: {regex: "/v[0-9]+/.*"}
            scheme: {exact: https}
            method: {prefix: G}
            authority: {exact: reviews}
            headers: {cookie: {regex: "^(.*?;)?(user=jason)(;.*)?$"}, x-there: {}}
            withoutHeaders: {x-gone: {exact: a}}
            queryParams: {v: {exact: "2"}, any: {}}
            port: 80
            sourceLabels: {app: page}
            sourceNamespace: shop
            gateways: [mesh]
            statPrefix: one
          - uri: {prefix: /x}
            ignoreUriCase: true
          route:
          - destination: {host: reviews, subset: v1, port: {number: 80}}
            weight: 75
            headers: {request: {set: {x-v: "1"}, remove: [x-old]}}
          - {destination: {host: reviews, subset: v2}, weight: 25}
          rewrite: {uriRegexRewrite: {match: "^/v([0-9]+)", rewrite: '/\\1'}, authority: other.example.com}
          timeout: 5s
          retries: {attempts: 3, perTryTimeout: 500ms, retryOn: "gateway-error,429", retryRemoteLocalities: true, backoff: 10ms}
          fault:
            delay: {fixedDelay: 2s, percentage: {value: 0.1}}
            abort: {httpStatus: 503, percentage: {value: 5}}
          mirrors: [{destination: {host: shadow}, percentage: {value: 50}}]
          corsPolicy: {allowOrigins: [{prefix: https://}], allowMethods: [GET, POST], maxAge: 24h, allowCredentials: true}
          headers: {response: {add: {x-a: "%REQ(x-a)% at %START_TIME%", x-b: "100%%"}}}
        - match: [{uri: {exact: /old}}]
          redirect: {uri: /new, authority: other.example.com, redirectCode: 308, derivePort: FROM_REQUEST_PORT}
        - match: [{uri: {exact: /no}}]
          directResponse: {status: 503, body: {string: closed}}
        - match: [{uri: {prefix: /team}}]
          delegate: {name: team, namespace: other}
        tls: [{match: [{port: 443, sniHosts: [a.example.com], destinationSubnets: [10.0.0.0/8]}], route: [{destination: {host: a}}]}]
        tcp: [{match: [{port: 27017, sourceSubnet: 10.0.0.0/8}], route: [{destination: {host: mongo}, weight: 100}]}]
    """)
    assert isinstance(found.object, VirtualService), found.findings
    assert found.findings == ()
    assert found.object.spec.http[0].match[0].headers["x-there"].presence


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ("hosts: [a]", "has no routes"),
        ("hosts: ['*']\nhttp: [{" + TO + "}]", "every host of the mesh"),
        ("hosts: ['a*b']\nhttp: [{" + TO + "}]", "no host name"),
        (http("{match: [{uri: {exact: /a, prefix: /a}}], " + TO + "}"), "exact and prefix at once"),
        (http("{match: [{uri: {}}], " + TO + "}"), "neither exact, prefix nor regex"),
        (http("{match: [{uri: {exact: a}}], " + TO + "}"), "matches no path"),
        (http("{match: [{uri: {prefix: '/a?b=c'}}], " + TO + "}"), "matches no path"),
        (http("{match: [{uri: {regex: '(?=a)'}}], " + TO + "}"), "no regular expression of RE2"),
        (http("{match: [{uri: {regex: '\\pL{15}'}}], " + TO + "}"), "is too costly"),
        (http("{match: [{uri: {regex: '" + "a" * 2000 + "'}}], " + TO + "}"), "2000 characters"),
        (http('{name: "a\\nb", ' + TO + "}"), "not printable"),
        (http("{match: [{headers: {'a b': {exact: x}}}], " + TO + "}"), "no name of a header"),
        (http("{match: [{headers: {'@request.auth.claims.a': {exact: x}}}], " + TO + "}"), "claims of a token"),
        (http("{match: [{headers: {x: {exact: a, ignoreCase: true}}}], " + TO + "}"), "unknown field 'ignoreCase'"),
        (http("{match: [{header: {x: {exact: a}}}], " + TO + "}"), "unknown field 'header'"),
        (http("{match: [{headers: }], " + TO + "}"), "'headers' is empty"),
        (http("{match: [{port: 0x50}], " + TO + "}"), "expected `int`"),
        (http("{}"), "leads nowhere"),
        (http("{redirect: {uri: /}, " + TO + "}"), "route and redirect at once"),
        (http("{redirect: {uri: /}, timeout: 1s}"), "means nothing beside a redirect"),
        (http("{redirect: {redirectCode: 301}}"), "for ever"),
        (http("{redirect: {uri: /, redirectCode: 200}}"), "no redirect"),
        (http("{directResponse: {status: 42}}"), "no status"),
        (http("{directResponse: {status: 200, body: {bytes: '?'}}}"), "no base64"),
        (http("{rewrite: {uri: /, uriRegexRewrite: {match: a}}, " + TO + "}"), "at once"),
        (http("{rewrite: {uriRegexRewrite: {match: a, rewrite: '\\1'}}, " + TO + "}"), "no group 1"),
        (http("{route: [{destination: {host: a}}, {destination: {host: b}}]}"), "all weights are 0"),
        (http("{route: [{destination: {host: a}, weight: -1}]}"), "numbers from 0"),
        (http("{route: [{destination: {host: '*.a'}}]}"), "no single host"),
        (http("{retries: {attempts: 1, retryOn: sometimes}, " + TO + "}"), "no condition to retry on"),
        (http("{retries: {attempts: 1, retryOn: '99999'}, " + TO + "}"), "no condition to retry on"),
        (http("{retries: {attempts: 1, perTryTimeout: 0s}, " + TO + "}"), "less than a millisecond"),
        (http("{timeout: soon, " + TO + "}"), "no duration"),
        (http("{fault: {abort: {}}, " + TO + "}"), "needs httpStatus or grpcStatus"),
        (http("{fault: {abort: {httpStatus: 100}}, " + TO + "}"), "no status to answer with"),
        (http("{fault: {abort: {http2Error: X, httpStatus: 500}}, " + TO + "}"), "is not supported"),
        (http("{fault: {delay: {percentage: {value: 101}, fixedDelay: 1s}}, " + TO + "}"), "no percentage"),
        (http("{mirrorPercentage: {value: 1}, " + TO + "}"), "without a mirror"),
        (http("{corsPolicy: {allowMethods: [get]}, " + TO + "}"), "no method"),
        (http("{headers: {request: {set: {content-length: '1'}}}, " + TO + "}"), "how a message is sent"),
        (http("{headers: {request: {set: {x: '%ENVIRONMENT(HOME)%'}}}, " + TO + "}"), "nothing that a header may be filled with"),
        (http("{headers: {request: {set: {x: '50%'}}}, " + TO + "}"), "written %%"),
        (http('{headers: {request: {set: {x: "a\\r\\nb"}}}, ' + TO + "}"), "control character"),
        (http("{headers: {request: {remove: [host]}}, " + TO + "}"), "can't be removed"),
        ("hosts: [a]\ntls: [{match: [{sniHosts: [b]}], route: [{destination: {host: a}}]}]", "none of the hosts"),
        ("hosts: [a]\ntls: [{match: [], route: [{destination: {host: a}}]}]", "needs a match"),
        ("hosts: [a]\ntcp: [{route: []}]", "leads nowhere"),
        ("hosts: [a]\ntcp: [{match: [{destinationSubnets: [a]}], route: [{destination: {host: a}}]}]", "no IP address"),
        ("gateways: [edge]\nhttp: [{" + TO + "}]", "delegated to"),
        ("http: [{delegate: {name: a}}]", "does not delegate again"),
        ("hosts: [a]\nexportTo: [~x]\nhttp: [{" + TO + "}]", "no DNS label"),
    ],
)  # fmt: skip
def test_what_is_refused(spec: str, what: str) -> None:
    found = read(spec)
    assert any(what in one for one in errors(spec)), found.findings
    assert found.object is None


def test_what_is_accepted_with_a_warning() -> None:
    assert warnings(http("{fault: {abort: {httpStatus: 500}}, " + TO + "}")) == ["without a percentage no request meets it"]
    assert warnings(http("{" + TO + "}, {" + TO + "}")) == ["is never reached: http[0] takes every request"]
    old = "{mirror: {host: b}, mirrorPercent: 5, fault: {abort: {httpStatus: 500, percent: 3}}, corsPolicy: {allowOrigin: [a]}, " + TO + "}"
    assert [one.partition(" ")[0] for one in warnings(http(old))] == ["mirrorPercent", "percent", "allowOrigin"]
    assert warnings(http("{match: [{headers: {end-user: jason}}], " + TO + "}")) == ["'end-user' is matched without a type"]
    two = "{route: [{destination: {host: a}, weight: 1}, {destination: {host: b}, weight: 2}]}"
    assert warnings(http(two)) == ["the weights add up to 3: each is a share of that, and no percentage"]


@given(st.sampled_from(["*", "a.b", "*.b", "x.a.b", "*.a.b", "c"]), st.sampled_from(["*", "a.b", "*.b", "x.a.b", "*.a.b", "c", "b"]))
@settings(max_examples=60)
def test_a_host_covers_what_all_its_names_are_of(host: str, name: str) -> None:
    universe = ["a.b", "x.a.b", "y.x.a.b", "c", "b", "q.b"]

    def named(pattern: str) -> set[str]:
        if pattern == "*":
            return {*universe, "anything.else"}
        return {one for one in universe if one == pattern or (pattern.startswith("*") and one.endswith(pattern[1:]))}

    assert (host in covering(name)) == (named(name) <= named(host))


def test_what_would_take_long_to_judge_is_refused_at_once() -> None:
    many = ", ".join(f"{{headers: {{x{number}: {{regex: 'a{number}'}}}}}}" for number in range(MAX_REGEXES + 1))
    assert errors(http("{match: [" + many + "], " + TO + "}")) == [f"{MAX_REGEXES + 1} regular expressions: at most {MAX_REGEXES}"]
