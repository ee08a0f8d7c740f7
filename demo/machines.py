"""A virtual machine on a topology: a host's namespace that joins with a bundle, by the commands that its owner would use."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from demo import cgroups
from demo.cluster import BIN, Cluster
from demo.manifests import Manifest
from demo.shell import Process, run

JOIN_S: Final = 60.0


def workload_group(
    name: str, *, namespace: str = "default", app: str, service_account: str, allowed_addresses: str = "", **spec: Any
) -> Manifest:
    """A WorkloadGroup; `allowed_addresses`: blocks that its machines may choose from; `spec` is more of it: `probe`, say."""
    template = {"serviceAccount": service_account, "ports": {"http": 8080, "tcp-echo": 9000}}
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "WorkloadGroup",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "annotations": {"nodemesh.io/allowed-addresses": allowed_addresses} if allowed_addresses else {},
        },
        "spec": {"metadata": {"labels": {"app": app}}, "template": template, **spec},
    }


class Machine:
    """`name` is that of a host of the topology, and the machine's own."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.host = cluster.topology.hosts.get(name) or cluster.topology.add_host(name)
        self.directory = cluster.node_directory(name)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.configuration = self.directory / "agent.yaml"

    @property
    def bundle(self) -> Path:
        return self.directory / "bundle"

    def create_bundle(self, *groups: str) -> None:
        """By the operator, for groups as `namespace/name`."""
        options = [option for group in groups for option in ("--group", group)]
        controller = self.cluster.topology.hosts["controller"].ipv4
        self.cluster.meshctl("vm", "create", *options, f"--name={self.name}", f"--controller={controller}", f"--output={self.bundle}")

    def join(self, *, answers: Sequence[int] = (0,)) -> str:
        """By the machine's owner; returns what the command said."""
        return self.command("join", str(self.bundle), f"--state-dir={self.state}", "--no-start", answers=answers)

    def leave(self, *options: str, answers: Sequence[int] = (0,)) -> str:
        return self.command("leave", f"--state-dir={self.state}", "--drain=0", *options, answers=answers)

    def command(self, *arguments: str, answers: Sequence[int] = (0, 1)) -> str:
        """`nodeagent …` on the machine."""
        line = [str(BIN / "nodeagent"), f"--run-dir={self.directory / 'run'}", *arguments]
        return run(line, namespace=self.host.namespace, timeout_s=JOIN_S * self.cluster.patience, answers=answers)

    @property
    def state(self) -> Path:
        return self.directory / "state"

    def configure(self, **content: Any) -> None:
        """Writes the machine's own configuration, in place of what was there."""
        draft = self.configuration.with_suffix(".draft")
        draft.write_text(yaml.safe_dump(content, sort_keys=False))
        draft.rename(self.configuration)

    def start(self) -> None:
        """The agent, as its service would be started."""
        (self.directory / "run").mkdir(parents=True, exist_ok=True)
        command = [
            str(BIN / "nodeagent"),
            f"--run-dir={self.directory / 'run'}",
            "run",
            "--runtime=vm",
            "--kubelet-cgroup=none",
            f"--state-dir={self.state}",
            f"--vm-config={self.configuration}",
            *self.cluster.agent_options,
        ]
        cgroup = cgroups.make(f"{self.cluster.topology.prefix}-{self.name}")
        log = self.directory / "agent.log"
        self.cluster.agents[self.name] = Process(
            f"agent {self.name}", command, log, self.host.namespace, dict(os.environ), cgroup=cgroup
        ).start()

    def stop(self) -> None:
        """The agent; captures stay in force, and its proxy runs."""
        self.cluster.agents[self.name].stop()

    def workloads(self) -> dict[str, Any]:
        """What the agent says of them, by name; nothing if it does not answer."""
        try:
            return {entry["name"]: entry for entry in self.cluster.admin(self.name, "/workloads")}
        except OSError:
            return {}

    def ready(self) -> bool:
        """Whether everything of it is captured and has its identity."""
        found = self.workloads().values()
        return bool(found) and all(entry["ready"] for entry in found)
