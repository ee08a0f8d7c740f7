"""What holds for the whole mesh."""

from msgspec import Struct

from meshapi import wire


class MeshSettings(Struct, frozen=True):
    """`domain` is the cluster's DNS domain, `network` the name of the network that addresses without one are in.

    `key_hosts` are the hosts from which the keys of tokens may be fetched; `*.suffix` stands for any host below.
    `wasm_sources`: such hosts, and directories of the proxies' hosts, from which modules may come.
    `scope_gateways`: Istio's Gateways choose none but gateways of their own namespace.
    """

    trust_domain: str = wire.DEFAULT_TRUST_DOMAIN
    cluster: str = wire.DEFAULT_CLUSTER
    root_namespace: str = wire.DEFAULT_ROOT_NAMESPACE
    domain: str = "cluster.local"
    network: str = ""
    key_hosts: frozenset[str] = frozenset()
    wasm_sources: frozenset[str] = frozenset()
    scope_gateways: bool = False

    def hostname(self, service: str, namespace: str) -> str:
        """The DNS name of a Kubernetes service."""
        return f"{service}.{namespace}.svc.{self.domain}"
