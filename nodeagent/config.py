"""What an agent is told when it starts."""

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Final

from msgspec import Struct

from meshapi import wire
from meshapi.spiffe import AgentIdentity, check_segment, check_trust_domain
from meshapi.workload import IPAddress
from nodeagent.capture.base import Way
from nodeagent.cni.conflist import CNIPlaces
from nodeagent.policy.addresses import AddressError, parse_address
from nodeagent.probes.place import KubeletCgroup
from nodeagent.ztunnel.proxy_unit import is_template

USUAL_ENGINE_SOCKETS: Final = tuple(map(Path, ("/run/docker.sock", "/run/podman/podman.sock", "/run/containerd/containerd.sock")))
KUBELETS_CONTAINERS: Final = "k8s.io"
"""containerd's namespace of the containers that a kubelet started, which are pods."""


class ConfigError(ValueError):
    """A setting that can't be; the text names it."""


class LogFormat(StrEnum):
    JSON = "json"
    TEXT = "text"


class Outside(StrEnum):
    """How connections go to destinations that the mesh does not know."""

    DIRECT = "direct"
    """Past the proxy from the second on, where the capture can."""
    PROXIED = "proxied"


class ControllerAddress(Struct, frozen=True):
    """`host`: name or address. Two ports: one for callers with a certificate, one for callers with a token."""

    host: str
    certificate_port: int = wire.XDS_MTLS_PORT
    token_port: int = wire.XDS_TOKEN_PORT
    server_name: str | None = None

    @property
    def certificate_target(self) -> str:
        return _target(self.host, self.certificate_port)

    @property
    def token_target(self) -> str:
        return _target(self.host, self.token_port)


class StaticList(Struct, frozen=True):
    """Workloads from a file."""

    path: Path


class KubernetesPods(Struct, frozen=True):
    """The pods of this node. `kubeconfig`: None for what a pod is given; `cni`: where to install the plugin, None to install none."""

    kubeconfig: Path | None = None
    cni: CNIPlaces | None = None
    exempt_namespaces: tuple[str, ...] = ()
    """Never captured, so that their pods start without the agent."""
    daemonset: tuple[str, str] | None = None
    """Namespace and name of what runs the agents: when that is gone, so is the mesh, and an agent that ends takes its node out of it."""


class EngineContainers(Struct, frozen=True):
    """Containers of engines, by their APIs on unix sockets: at `sockets`, or, without any, at the usual ones that are there."""

    sockets: tuple[Path, ...] = ()
    exempt_namespaces: tuple[str, ...] = (KUBELETS_CONTAINERS,)
    """Of containerd: whose containers are not looked at."""


class JoinedMachine(Struct, frozen=True):
    """This machine itself, which has joined with a bundle; `configuration` says what of it is in the mesh, and need not be there."""

    configuration: Path = Path("/etc/nodemesh/agent.yaml")


RuntimeChoice = StaticList | KubernetesPods | EngineContainers | JoinedMachine


class Config(Struct, frozen=True):
    """Settings of `nodeagent run`. Exactly one of `join_token` and `token` is set, or for a machine that has joined none."""

    node: str
    controller: ControllerAddress
    root_ca: Path
    runtime: RuntimeChoice
    """Where the workloads of this node are known from."""
    join_token: Path | None = None
    token: Path | None = None
    run_dir: Path = Path("/run/nodemesh")
    state_dir: Path = Path("/var/lib/nodemesh")
    trust_domain: str = wire.DEFAULT_TRUST_DOMAIN
    cluster: str = wire.DEFAULT_CLUSTER
    root_namespace: str = wire.DEFAULT_ROOT_NAMESPACE
    metrics_listen: tuple[str, int] = ("0.0.0.0", wire.METRICS_PORT)
    ready_listen: tuple[str, int] = ("0.0.0.0", wire.READINESS_PORT)
    capture: Way = Way.AUTO
    outside: Outside = Outside.DIRECT
    tcp_telemetry: bool = True
    """The kernel counts connections between workloads, and records which process opened one."""
    kubelet: KubeletCgroup | None = KubeletCgroup()
    """Whose connections are probes; None: nobody's."""
    probes_from_node: bool = False
    """Where the kubelet's connections can't be known, plaintext from the node's addresses counts as probes."""
    node_addresses: tuple[IPAddress, ...] = ()
    """Those that count; none: all that the node has."""
    dns: bool = True
    """Answer the workloads' questions to DNS, where the capture can bring them here."""
    prefilter: bool = True
    """Refuse at the first packet what needs no identity to be denied."""
    proxy_binary: Path | None = None
    proxy_unit: str | None = None
    """A template of systemd, whose instances proxies are; None: they are children of the agent."""
    proxy_workers: int | None = None
    proxy_drain_s: float = 300.0
    """What the connections of a proxy have to finish that another takes the place of, or that ends with a container."""
    in_container: bool = False
    """The proxy can't outlive the agent: they end together, and the next agent takes over while both are there."""
    access_log: Path | None = None
    log_format: LogFormat = LogFormat.TEXT

    def __post_init__(self) -> None:
        try:
            check_segment(self.node)
            check_trust_domain(self.trust_domain)
            AgentIdentity(self.trust_domain, self.node)
        except ValueError as error:
            raise ConfigError(f"--node, --trust-domain: {error}") from error
        if isinstance(self.runtime, JoinedMachine):
            if self.join_token is not None or self.token is not None:
                raise ConfigError("a machine that has joined proves itself by its certificate: no --join-token, no --token")
        elif (self.join_token is None) == (self.token is None):
            raise ConfigError("one of --join-token and --token says how the agent proves itself to the controller")
        if self.proxy_unit is not None and (not is_template(self.proxy_unit) or self.in_container):
            raise ConfigError(
                f"--proxy-unit {self.proxy_unit!r}: must be a template such as nodemesh-proxy@.service, outside of containers"
            )


def parse_controller(text: str, *, token_port: int = wire.XDS_TOKEN_PORT, server_name: str | None = None) -> ControllerAddress:
    """Reads `host`, `host:port`, `[ip]` or `[ip]:port`, the port being the one for certificates; raises ConfigError."""
    host, port = _split(text, wire.XDS_MTLS_PORT, f"--controller {text!r}")
    return ControllerAddress(host, port, token_port, server_name)


def parse_listen(text: str, option: str) -> tuple[str, int]:
    """Reads `address:port`, or `port` alone for all IPv4 addresses; raises ConfigError."""
    if text.isascii() and text.isdigit():
        return _split(f"0.0.0.0:{text}", 0, f"{option} {text!r}")
    return _split(text, 0, f"{option} {text!r}")


def _daemonset(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    namespace, slash, name = text.partition("/")
    if not slash or not namespace or not name or "/" in name:
        raise ConfigError(f"--daemonset {text!r}: must be NAMESPACE/NAME")
    return namespace, name


def parse_kubelet_cgroup(text: str) -> KubeletCgroup | None:
    """Reads `auto`, `none`, or the path of a cgroup below its mount; raises ConfigError."""
    match text:
        case "auto":
            return KubeletCgroup()
        case "none":
            return None
    if not text.startswith("/") or "\0" in text or ".." in text.split("/") or not text.strip("/"):
        raise ConfigError(f"--kubelet-cgroup {text!r}: must be auto, none, or a path like /system.slice/kubelet.service")
    return KubeletCgroup(text)


def parse_node_addresses(texts: Iterable[str]) -> tuple[IPAddress, ...]:
    """Raises ConfigError."""
    try:
        return tuple(parse_address(text) for text in texts)
    except AddressError as error:
        raise ConfigError(f"--node-address: {error}") from error


def parse_runtime(
    text: str,
    *,
    cni_bin_dir: Path | None = None,
    cni_conf_dir: Path | None = None,
    exempt_namespaces: tuple[str, ...] = (),
    daemonset: str | None = None,
    containerd_exempt: tuple[str, ...] = (),
    vm_config: Path | None = None,
) -> RuntimeChoice:
    """Reads `static:FILE`, `kubernetes[:KUBECONFIG]`, `containers[:SOCKET[,SOCKET...]]` or `vm`; raises ConfigError."""
    kind, _, rest = text.partition(":")
    if kind != "kubernetes" and (cni_bin_dir or cni_conf_dir or exempt_namespaces or daemonset):
        raise ConfigError("--daemonset and the options for CNI are for --runtime kubernetes")
    if kind != "containers" and containerd_exempt:
        raise ConfigError("--containerd-exempt-namespace is for --runtime containers")
    match kind:
        case "static" if rest:
            return StaticList(Path(rest))
        case "kubernetes":
            if (cni_bin_dir is None) != (cni_conf_dir is None):
                raise ConfigError("--cni-bin-dir and --cni-conf-dir go together: the plugin, and the configuration that names it")
            cni = CNIPlaces(cni_bin_dir, cni_conf_dir) if cni_bin_dir and cni_conf_dir else None
            return KubernetesPods(Path(rest) if rest else None, cni, exempt_namespaces, _daemonset(daemonset))
        case "containers":
            sockets = tuple(Path(one) for one in rest.split(",") if one)
            exempt = tuple(filter(None, containerd_exempt)) if containerd_exempt else (KUBELETS_CONTAINERS,)
            return EngineContainers(sockets, exempt)
        case "vm" if not rest:
            return JoinedMachine() if vm_config is None else JoinedMachine(vm_config)
        case _:
            raise ConfigError(f"--runtime {text!r}: must be static:FILE, kubernetes[:KUBECONFIG], containers[:SOCKET,...] or vm")


def _split(text: str, default_port: int, what: str) -> tuple[str, int]:
    host, colon, digits = text.rpartition(":")
    if not colon or (text.startswith("[") and text.endswith("]")) or (":" in host and not host.startswith("[")):
        host, digits = text, str(default_port)
    if not digits.isascii() or not digits.isdigit() or not 0 < int(digits) <= 65535:
        raise ConfigError(f"{what}: must be host:port, the port 1 to 65535")
    host = host.removeprefix("[").removesuffix("]")
    if not host or any(character.isspace() for character in host):
        raise ConfigError(f"{what}: names no host")
    return host, int(digits)


def _target(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
