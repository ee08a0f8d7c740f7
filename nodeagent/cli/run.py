"""`nodeagent run`: the agent itself."""

import sys
from pathlib import Path
from typing import Any

import click

from nodeagent.cli.run_dir import pass_run_dir
from systemdapi.journal import log_to

_FILE = click.Path(path_type=Path, dir_okay=False)
_DIRECTORY = click.Path(path_type=Path, file_okay=False)


@click.command(context_settings={"auto_envvar_prefix": "NODEMESH", "show_default": True})
@click.option("--node", show_envvar=True, help="This node's name, as the controller knows it.")
@click.option("--controller", show_envvar=True, metavar="HOST[:PORT]", help="The controller; the port for certificates is 15011.")
@click.option("--controller-token-port", type=click.IntRange(1, 65535), default=15012, show_envvar=True, help="Its port for tokens.")
@click.option("--controller-name", show_envvar=True, help="The name that its certificate must have, if not HOST.")
@click.option("--root-ca", type=_FILE, show_envvar=True, help="PEM roots that the controller's certificate must chain to.")
@click.option("--join-token", type=_FILE, show_envvar=True, help="A one-time token to join with; not read again once the node has joined.")
@click.option("--token", type=_FILE, show_envvar=True, help="A service account token to present each time, instead of joining (istiod).")
@click.option(
    "--runtime",
    required=True,
    show_envvar=True,
    metavar="static:FILE | kubernetes[:KUBECONFIG] | containers[:SOCKET,...] | vm",
    help="Which workloads run here: those of a YAML list, this node's pods, the containers of engines (Docker, Podman, containerd, at"
    " their usual sockets if none is given), or the machine itself, which has joined (see `join`) and needs to be told no more.",
)
@click.option(
    "--containerd-exempt-namespace",
    multiple=True,
    show_envvar=True,
    help="With --runtime containers: a namespace of containerd that is not looked at; k8s.io if not given.",
)
@click.option(
    "--vm-config",
    type=_FILE,
    default=Path("/etc/nodemesh/agent.yaml"),
    show_envvar=True,
    help="With --runtime vm: what of the machine is in the mesh; the whole of it, if there is no such file.",
)
@click.option("--cni-bin-dir", type=_DIRECTORY, show_envvar=True, help="Where to put the CNI plugin; with --cni-conf-dir.")
@click.option("--cni-conf-dir", type=_DIRECTORY, show_envvar=True, help="Where the CNI configuration is to which the plugin is added.")
@click.option(
    "--daemonset",
    show_envvar=True,
    metavar="NAMESPACE/NAME",
    help="What runs the agents: one that ends when it is gone takes its node out of the mesh.",
)
@click.option(
    "--cni-exempt-namespace", multiple=True, show_envvar=True, help="Its pods are never captured, and start while the agent is away."
)
@click.option(
    "--state-dir", type=click.Path(path_type=Path), default=Path("/var/lib/nodemesh"), show_envvar=True, help="Kept over restarts."
)
@click.option("--trust-domain", default="cluster.local", show_envvar=True, help="The mesh's trust domain.")
@click.option("--cluster", default="Kubernetes", show_envvar=True, help="The name of the cluster that this node is in.")
@click.option("--root-namespace", default="istio-system", show_envvar=True, help="Policies there hold in all namespaces.")
@click.option("--metrics-listen", default="0.0.0.0:15020", show_envvar=True, metavar="ADDRESS:PORT", help="Prometheus metrics.")
@click.option("--ready-listen", default="0.0.0.0:15021", show_envvar=True, metavar="ADDRESS:PORT", help="Readiness: /healthz/ready.")
@click.option(
    "--capture",
    type=click.Choice(["auto", "ebpf", "nftables", "redirect", "iptables"]),
    default="auto",
    show_envvar=True,
    help="How traffic reaches the proxy; auto takes the best that the kernel carries, and `nodeagent status` says which.",
)
@click.option(
    "--outside",
    type=click.Choice(["direct", "proxied"]),
    default="direct",
    show_envvar=True,
    help="Connections to destinations that the mesh does not know: past the proxy from the second on, where the capture can, or by it.",
)
@click.option(
    "--tcp-telemetry",
    type=click.Choice(["on", "off"]),
    default="on",
    show_envvar=True,
    help="TCP's figures between workloads, and the process behind a connection, by eBPF.",
)
@click.option(
    "--kubelet-cgroup",
    default="auto",
    show_envvar=True,
    metavar="auto | none | PATH",
    help="Whose connections are probes, and exempt from policy: those of the unit kubelet.service, nobody's, or of this cgroup"
    " (a path below its mount). For this the capture must be ebpf.",
)
@click.option(
    "--probes-from-node/--no-probes-from-node",
    default=False,
    show_envvar=True,
    help="Where the kubelet's connections can't be told from others: let plaintext from the node's own addresses reach the ports that"
    " workloads declare for probes. Any process of the node passes there, and so does what the node masquerades.",
)
@click.option(
    "--node-address", multiple=True, show_envvar=True, help="With --probes-from-node: only from there; all that it has if not given."
)
@click.option(
    "--prefilter",
    type=click.Choice(["on", "off"]),
    default="on",
    show_envvar=True,
    help="Let the kernel refuse at the first packet what policies deny whoever comes (capture by ebpf only); off leaves it to the proxy.",
)
@click.option(
    "--dns/--no-dns",
    default=True,
    show_envvar=True,
    help="Answer the workloads' questions to DNS for names of the mesh, and pass on all others to the resolvers that they ask"
    " (capture by ebpf or nftables).",
)
@click.option("--proxy-binary", type=_FILE, show_envvar=True, help="Another proxy than the one that came with the agent.")
@click.option(
    "--proxy-unit", show_envvar=True, metavar="NAME@.service", help="Start proxies as instances of this unit of systemd, not as children."
)
@click.option("--proxy-workers", type=click.IntRange(1, 1024), show_envvar=True, help="Its threads; all CPUs if not given.")
@click.option(
    "--proxy-drain",
    type=click.FloatRange(0, 86400),
    default=300.0,
    show_envvar=True,
    metavar="SECONDS",
    help="What open connections have to finish when another proxy takes the place of theirs, at an upgrade.",
)
@click.option(
    "--in-container",
    is_flag=True,
    show_envvar=True,
    help="The proxy ends with this agent's container: take over from an agent that runs here, and end when the proxy has drained.",
)
@click.option(
    "--access-log", type=_FILE, show_envvar=True, help="A file for the access log, rotated by size; standard output if not given."
)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_envvar=True, help="Of the access log.")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_envvar=True, help="Of the agent's log."
)
@pass_run_dir
def run(run_dir: Path, /, log_level: str, **options: Any) -> None:
    """Runs the agent until it is told to end; proxy and captures stay in force then (see `down`).

    Every option can be given as the environment variable that is named beside it.
    """
    from nodeagent.config import ConfigError

    log_to(sys.stderr, program="nodeagent", level=log_level.upper())
    try:
        config = _config(run_dir, options)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    from nodeagent.process import main

    sys.exit(main(config))


def _config(run_dir: Path, options: dict[str, Any]) -> Any:
    """Any: the type's module is not to be imported by the other commands."""
    from nodeagent.capture.base import Way
    from nodeagent.config import (
        Config,
        JoinedMachine,
        LogFormat,
        Outside,
        parse_kubelet_cgroup,
        parse_listen,
        parse_node_addresses,
        parse_runtime,
    )

    runtime = parse_runtime(
        options["runtime"],
        cni_bin_dir=options["cni_bin_dir"],
        cni_conf_dir=options["cni_conf_dir"],
        exempt_namespaces=options["cni_exempt_namespace"],
        daemonset=options["daemonset"],
        containerd_exempt=options["containerd_exempt_namespace"],
        vm_config=options["vm_config"],
    )
    return Config(
        **(_joined(options["state_dir"]) if isinstance(runtime, JoinedMachine) else _told(options)),
        runtime=runtime,
        join_token=options["join_token"],
        token=options["token"],
        run_dir=run_dir,
        state_dir=options["state_dir"],
        metrics_listen=parse_listen(options["metrics_listen"], "--metrics-listen"),
        ready_listen=parse_listen(options["ready_listen"], "--ready-listen"),
        capture=Way(options["capture"]),
        outside=Outside(options["outside"]),
        tcp_telemetry=options["tcp_telemetry"] == "on",
        kubelet=parse_kubelet_cgroup(options["kubelet_cgroup"]),
        probes_from_node=options["probes_from_node"],
        node_addresses=parse_node_addresses(options["node_address"]),
        prefilter=options["prefilter"] == "on",
        dns=options["dns"],
        proxy_binary=options["proxy_binary"],
        proxy_unit=options["proxy_unit"],
        proxy_workers=options["proxy_workers"],
        proxy_drain_s=options["proxy_drain"],
        in_container=options["in_container"],
        access_log=options["access_log"],
        log_format=LogFormat(options["log_format"]),
    )


def _told(options: dict[str, Any]) -> dict[str, Any]:
    """Which mesh it is, by the options."""
    from nodeagent.config import ConfigError, parse_controller

    missing = [name for name in ("node", "controller", "root_ca") if options[name] is None]
    if missing:
        raise ConfigError(f"needs {', '.join('--' + name.replace('_', '-') for name in missing)}")
    return {
        "node": options["node"],
        "controller": parse_controller(
            options["controller"], token_port=options["controller_token_port"], server_name=options["controller_name"]
        ),
        "root_ca": options["root_ca"],
        **{name: options[name] for name in ("trust_domain", "cluster", "root_namespace")},
    }


def _joined(state_dir: Path) -> dict[str, Any]:
    """Which mesh it is, by what was joined."""
    from nodeagent.config import ConfigError, ControllerAddress
    from nodeagent.vm.membership import ROOTS, NotJoinedError, load

    try:
        joined = load(state_dir)
    except NotJoinedError as error:
        raise ConfigError(str(error)) from error
    place = joined.controller
    return {
        "node": joined.node,
        "controller": ControllerAddress(place.host, place.certificate_port, place.token_port, place.server_name),
        "root_ca": state_dir / ROOTS,
        **{name: getattr(joined, name) for name in ("trust_domain", "cluster", "root_namespace")},
    }


def joined_config(run_dir: Path, state_dir: Path) -> Any:
    """Of an agent of this machine with all defaults, by what it has joined; raises ConfigError."""
    from nodeagent.config import Config, JoinedMachine

    return Config(**_joined(state_dir), runtime=JoinedMachine(), run_dir=run_dir, state_dir=state_dir)
