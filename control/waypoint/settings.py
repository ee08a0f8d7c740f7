"""How an Envoy is run: what the operator says of it."""

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from control.envoy.reports import PIPE
from meshapi import wire
from meshapi.spiffe import WorkloadIdentity

SOCKET_NAME = "envoy.sock"
ADMIN_NAME = "admin.sock"


@dataclass(frozen=True)
class Controllers:
    """Where the controller is: `hosts` in the order in which they are tried. `server_name`: what its certificate must name instead."""

    hosts: tuple[str, ...]
    token_port: int = wire.XDS_TOKEN_PORT
    agent_port: int = wire.XDS_MTLS_PORT
    server_name: str | None = None
    cluster: str = wire.DEFAULT_CLUSTER


@dataclass(frozen=True)
class Settings:
    """`token`: proves the first request for a certificate; `token_file` likewise, read at each. `state_dir` keeps key and certificate.

    `addresses` are those that tunnels are taken at, all of the machine without any; `drain_s` is how long connections may end by
    themselves when this process ends.
    """

    namespace: str
    gateway: str
    controllers: Controllers
    roots_pem: bytes
    state_dir: Path
    run_dir: Path
    envoy: Path
    trust_domain: str = wire.DEFAULT_TRUST_DOMAIN
    domain: str = "cluster.local"
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    addresses: tuple[IPv4Address | IPv6Address, ...] = ()
    ttl_s: int = 86_400
    """How long certificates are asked for; the controller may shorten it."""
    drain_s: int = 5
    concurrency: int | None = None
    max_connections: int | None = None
    """Of clients at once; what is more is refused. Without it as many as open files allow."""
    log_level: str = "warning"
    instance: str = ""
    """What tells several Envoys of one Gateway apart, such as the name of the pod or host."""

    metrics_listen: tuple[str, int] | None = None
    """Where metrics are served; None: nowhere."""

    @property
    def identity(self) -> WorkloadIdentity:
        return WorkloadIdentity(self.trust_domain, self.namespace, self.gateway)

    @property
    def socket(self) -> Path:
        """Where Envoy asks this process."""
        return self.run_dir / SOCKET_NAME

    @property
    def reports(self) -> Path:
        """Where Envoy reports: by this name alone, in the directory that it runs in."""
        return self.run_dir / PIPE

    @property
    def admin(self) -> Path:
        """Where Envoy's own admin interface is."""
        return self.run_dir / ADMIN_NAME
