"""Machines that registered: which identities they may have, when they are healthy, and what others are told of them."""

import pytest

from meshapi.spiffe import WorkloadIdentity
from meshapi.workload import NetworkMode, TunnelProtocol, WorkloadStatus
from tests.control.model.builders import Config

WEB = "vm_web-1_shop_web"
UID = "Kubernetes/networking.istio.io/WorkloadEntry/shop/web-10.0.0.7"
GROUP = """
apiVersion: networking.istio.io/v1
kind: WorkloadGroup
metadata: {name: web, namespace: shop}
spec: {template: {serviceAccount: web}}
---
"""


def entry(*, name: str = "web-10.0.0.7", address: str = "10.0.0.7", account: str = "web", more: str = "", rest: str = "") -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata:
  name: {name}
  namespace: shop
  annotations:
    istio.io/autoRegistrationGroup: web
    nodemesh.io/node: {WEB}
    ambient.istio.io/redirection: enabled
    {more}
spec: {{address: {address}, serviceAccount: {account}}}
{rest}
---
"""


def identity(account: str, namespace: str = "shop") -> WorkloadIdentity:
    return WorkloadIdentity("cluster.local", namespace, account)


def test_a_machine_has_the_identity_of_its_group_while_it_is_registered() -> None:
    config = Config(GROUP + entry())
    assert config.mesh.has_node(WEB)
    assert config.mesh.runs_on(identity("web"), WEB)
    assert config.workload(UID).node == WEB
    config.write("a.yaml", GROUP)
    assert config.mesh.has_node(WEB)
    assert not config.mesh.runs_on(identity("web"), WEB)


@pytest.mark.parametrize(
    ("asked", "node"),
    [
        (identity("other"), WEB),
        (identity("web", "default"), WEB),
        (WorkloadIdentity("elsewhere", "shop", "web"), WEB),
        (identity("web"), "vm_web-2_shop_web"),
        (identity("web"), "vm_web-1_shop_api"),
        (identity("web"), "vm_web-1_shop"),
        (identity("web"), "n1"),
    ],
)
def test_and_no_other_and_nobody_else_has_it(asked: WorkloadIdentity, node: str) -> None:
    assert not Config(GROUP + entry()).mesh.runs_on(asked, node)


def test_what_an_entry_says_of_its_account_gives_no_identity() -> None:
    config = Config(GROUP + entry(account="admin"))
    assert not config.mesh.runs_on(identity("admin"), WEB)


def test_without_its_group_a_machine_is_nobody() -> None:
    config = Config(entry())
    assert not config.mesh.has_node(WEB)
    assert not config.mesh.runs_on(identity("web"), WEB)


def test_who_is_at_another_s_address_gets_no_identity() -> None:
    config = Config(GROUP + entry())
    config.write(
        "pod.yaml",
        """
        apiVersion: v1
        kind: Pod
        metadata: {name: p, namespace: shop}
        spec: {nodeName: n1}
        status: {phase: Running, podIP: 10.0.0.7}
        """,
    )
    assert UID not in config.addresses
    assert not config.mesh.runs_on(identity("web"), WEB)


@pytest.mark.parametrize(
    ("more", "rest", "healthy"),
    [
        ("", "", True),
        ("", "status: {conditions: [{type: Healthy, status: 'False'}]}", True),
        ("proxy.istio.io/health-checks-enabled: 'true'", "", False),
        ("proxy.istio.io/health-checks-enabled: 'true'", "status: {conditions: [{type: Healthy, status: 'False'}]}", False),
        ("proxy.istio.io/health-checks-enabled: 'true'", "status: {conditions: [{type: Healthy, status: 'True'}]}", True),
        ("proxy.istio.io/health-checks-enabled: 'true'", "status: {conditions: [{type: Ready, status: 'True'}]}", False),
        ("proxy.istio.io/health-checks-enabled: 'false'", "", True),
    ],
)
def test_with_health_checks_what_is_not_known_to_be_healthy_is_not(more: str, rest: str, *, healthy: bool) -> None:
    config = Config(entry(more=more, rest=rest))
    assert (config.workload(UID).status is WorkloadStatus.HEALTHY) == healthy


def test_who_shares_an_address_is_not_found_by_it_and_offers_no_tunnel() -> None:
    shared = entry(name="api-10.0.0.7", more="nodemesh.io/shares-address: 'true'")
    config = Config(entry() + shared)
    other = config.workload("Kubernetes/networking.istio.io/WorkloadEntry/shop/api-10.0.0.7")
    assert other.network_mode is NetworkMode.HOST_NETWORK
    assert other.tunnel_protocol is TunnelProtocol.NONE
    assert config.workload(UID).tunnel_protocol is TunnelProtocol.HBONE
    assert config.mesh.resolve("type.googleapis.com/istio.workload.Address", "/10.0.0.7") == (UID,)
