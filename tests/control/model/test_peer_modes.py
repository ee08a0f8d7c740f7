"""How PeerAuthentications of the mesh, the namespace, the workload and its ports come together."""

import pytest
from google.protobuf import text_format

from meshapi import wire
from meshapi.authorization import Action, Match, PolicyScope, Present
from meshapi.proto import authorization_pb2
from meshapi.workload import TunnelProtocol
from tests.control.model.builders import ROOT, Config

POD = """
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: shop, labels: {app: web, istio.io/dataplane-mode: ambient}}
status: {podIPs: [{ip: 10.0.0.1}]}
"""
STATIC = f"{ROOT}/istio_converted_static_strict"
CONVERTED = "shop/converted_peer_authentication_own"
NO_IDENTITY = (Match(not_principals=(Present(),)),)


def peer(name: str, namespace: str, spec: str, created: str = "") -> str:
    return f"""
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: "{created}"}}
spec: {spec}
"""


def own(mode: str | None, ports: str = "") -> str:
    parts = ["selector: {matchLabels: {app: web}}"]
    parts += [f"mtls: {{mode: {mode}}}"] if mode else []
    parts += [f"portLevelMtls: {{{ports}}}"] if ports else []
    return "{" + ", ".join(parts) + "}"


MODES = {"S": "STRICT", "P": "PERMISSIVE", "D": "DISABLE", "U": "UNSET"}


@pytest.mark.parametrize(
    ("levels", "names", "tunnel"),
    # mesh, namespace, workload: `-` absent
    [
        ("---", (), TunnelProtocol.HBONE),
        ("S--", (STATIC,), TunnelProtocol.HBONE),
        ("P--", (), TunnelProtocol.HBONE),
        ("SP-", (), TunnelProtocol.HBONE),
        ("SU-", (STATIC,), TunnelProtocol.HBONE),
        ("SUU", (STATIC,), TunnelProtocol.HBONE),
        ("SPS", (STATIC,), TunnelProtocol.HBONE),
        ("S-P", (), TunnelProtocol.HBONE),
        ("-S-", (STATIC,), TunnelProtocol.HBONE),
        ("-SU", (STATIC,), TunnelProtocol.HBONE),
        ("--S", (STATIC,), TunnelProtocol.HBONE),
        ("S-D", (), TunnelProtocol.NONE),
        ("D--", (), TunnelProtocol.NONE),
        ("SD-", (), TunnelProtocol.NONE),
        ("D-S", (STATIC,), TunnelProtocol.HBONE),
        ("DP-", (), TunnelProtocol.HBONE),
    ],
)
def test_inheritance(levels: str, names: tuple[str, ...], tunnel: TunnelProtocol) -> None:
    mesh, namespace, workload = levels
    text = POD
    text += peer("mesh", ROOT, f"{{mtls: {{mode: {MODES[mesh]}}}}}") if mesh != "-" else ""
    text += peer("ns", "shop", f"{{mtls: {{mode: {MODES[namespace]}}}}}") if namespace != "-" else ""
    text += peer("own", "shop", own(MODES[workload])) if workload != "-" else ""
    config = Config(text)
    assert config.pod("shop", "p").authorization_policies == names
    assert config.pod("shop", "p").tunnel_protocol is tunnel
    assert config.policies == (set() if levels == "---" else {STATIC})


@pytest.mark.parametrize(
    ("parent", "mode", "ports", "name", "rules"),
    [
        ("PERMISSIVE", "STRICT", "8080: {mode: PERMISSIVE}", CONVERTED, ((NO_IDENTITY, (Match(not_destination_ports=(8080,)),)),)),
        (
            "PERMISSIVE",
            "STRICT",
            "9: {mode: DISABLE}, 8: {mode: PERMISSIVE}, 7: {mode: STRICT}, 6: {mode: UNSET}",
            CONVERTED,
            ((NO_IDENTITY, (Match(not_destination_ports=(8,)),), (Match(not_destination_ports=(9,)),)),),
        ),
        ("STRICT", None, "8080: {mode: PERMISSIVE}", CONVERTED, ((NO_IDENTITY, (Match(not_destination_ports=(8080,)),)),)),
        ("STRICT", "UNSET", "8080: {mode: DISABLE}", CONVERTED, ((NO_IDENTITY, (Match(not_destination_ports=(8080,)),)),)),
        ("STRICT", "STRICT", "8080: {mode: STRICT}", STATIC, None),
        ("STRICT", None, "8080: {mode: UNSET}", STATIC, None),
        ("STRICT", "PERMISSIVE", "8080: {mode: DISABLE}", None, None),
        (
            "STRICT",
            "PERMISSIVE",
            "8080: {mode: STRICT}, 80: {mode: STRICT}",
            CONVERTED,
            (
                ((Match(not_principals=(Present(),), destination_ports=(80,)),),),
                ((Match(not_principals=(Present(),), destination_ports=(8080,)),),),
            ),
        ),
        ("PERMISSIVE", None, "80: {mode: STRICT}", CONVERTED, (((Match(not_principals=(Present(),), destination_ports=(80,)),),),)),
        ("PERMISSIVE", None, "80: {mode: PERMISSIVE}", None, None),
    ],
)
def test_ports(parent: str, mode: str | None, ports: str, name: str | None, rules: object) -> None:
    config = Config(POD + peer("ns", "shop", f"{{mtls: {{mode: {parent}}}}}") + peer("own", "shop", own(mode, ports)))
    assert config.pod("shop", "p").authorization_policies == ((name,) if name else ())
    if rules is None:
        assert config.policies == {STATIC}
    else:
        policy = config.policy(CONVERTED)
        assert (policy.scope, policy.action, policy.rules) == (PolicyScope.WORKLOAD_SELECTOR, Action.DENY, rules)


def test_the_static_policy_on_the_wire() -> None:
    resource = Config(peer("mesh", ROOT, "{}")).mesh.get(wire.AUTHORIZATION_TYPE, STATIC)
    assert resource is not None
    expected = text_format.Parse(
        """
        name: "istio_converted_static_strict"
        namespace: "istio-system"
        scope: WORKLOAD_SELECTOR
        action: DENY
        rules { clauses { matches { not_principals { presence {} } } } }
        """,
        authorization_pb2.Authorization(),
    )
    assert authorization_pb2.Authorization.FromString(resource.body) == expected


def test_the_parent_changes_the_ports_policy() -> None:
    config = Config(POD + peer("own", "shop", own(None, "80: {mode: STRICT}, 81: {mode: PERMISSIVE}")))
    assert config.policy(CONVERTED).rules == (((Match(not_principals=(Present(),), destination_ports=(80,)),),),)
    config.write("mesh.yaml", peer("mesh", ROOT, "{mtls: {mode: STRICT}}"))
    assert config.policy(CONVERTED).rules == ((NO_IDENTITY, (Match(not_destination_ports=(81,)),)),)
    config.write("mesh.yaml", "")
    assert config.policy(CONVERTED).rules == (((Match(not_principals=(Present(),), destination_ports=(80,)),),),)


@pytest.mark.parametrize(
    ("first", "second", "strict"),
    [
        ("2030-01-01T00:00:00Z", "2030-01-02T00:00:00Z", True),
        ("2030-01-02T00:00:00Z", "2030-01-01T00:00:00Z", False),
        ("", "2030-01-01T00:00:00Z", False),
        ("2030-01-01T00:00:00Z", "", True),
        ("", "", True),
    ],
)
def test_the_oldest_of_several_holds(first: str, second: str, strict: bool) -> None:
    for selector in ("", "selector: {matchLabels: {app: web}}, "):
        text = POD + peer("a", "shop", f"{{{selector}mtls: {{mode: STRICT}}}}", first)
        config = Config(text + peer("b", "shop", f"{{{selector}mtls: {{mode: PERMISSIVE}}}}", second))
        assert config.pod("shop", "p").authorization_policies == ((STATIC,) if strict else ())


def test_authorization_policies_come_before_the_converted_ones() -> None:
    text = POD + peer("own", "shop", own("STRICT"))
    config = Config(
        text
        + """
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: z, namespace: shop}
spec: {selector: {matchLabels: {app: web}}}
"""
    )
    assert config.pod("shop", "p").authorization_policies == ("shop/z", STATIC)
