"""What a machine has joined, for tests."""

from meshapi.bundle import ControllerPlace
from meshapi.vm import GroupName, VMName
from nodeagent.vm.membership import Membership

WEB, API = GroupName("shop", "web"), GroupName("shop", "api")


def joined(*groups: GroupName, accounts: dict[str, str] | None = None) -> Membership:
    return Membership(
        node=VMName.make("one", groups or (WEB, API)).node,
        controller=ControllerPlace("10.0.0.1", 15011, 15012),
        roots_pem="",
        trust_domain="cluster.local",
        cluster="Kubernetes",
        root_namespace="istio-system",
        accounts=accounts or {},
    )
