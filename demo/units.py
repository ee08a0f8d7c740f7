"""What systemd would run on a machine: an application in a cgroup of its own, in the network of its host."""

import json
import signal
import sys
from pathlib import Path
from typing import Any, Final

from demo import cgroups
from demo.cluster import Cluster, eventually
from demo.shell import Process, in_namespace, run, with_resolver
from demo.topology import Host
from nodeagent.linux.cgroups import root

SOURCE: Final = str(Path(__file__).parent.parent)


class Unit:
    """`close` ends what runs in it, and removes its cgroup."""

    def __init__(self, cluster: Cluster, host: Host, name: str, resolver: Path) -> None:
        """`resolver`: what it has for /etc/resolv.conf."""
        self._resolver = resolver
        self._cluster = cluster
        self._host = host
        self._slice = cgroups.make(f"{cluster.topology.prefix}.slice")
        self.name = name
        self.path = f"{cluster.topology.prefix}.slice/{name}.service"
        """Below the mount, as the machine's configuration names it."""
        self._cgroup = cgroups.make(self.path)
        self._app: Process | None = None

    def serve(self) -> None:
        """The demo's service; it listens when this returns."""
        log = self._cluster.directory / f"{self.name}.log"
        log.unlink(missing_ok=True)
        command = [sys.executable, "-m", "demo.apps.server", "--name", self.name]
        self._app = Process(self.name, command, log, self._host.namespace, {"PYTHONPATH": SOURCE}, cgroup=self._cgroup).start()
        eventually(lambda: log.exists() and "listens" in log.read_text(), f"{self.name} to listen")

    def stop(self) -> None:
        """The service."""
        if self._app is not None:
            self._app.stop(signal_number=signal.SIGKILL)

    def get(self, host: object, port: int) -> Any:
        """One HTTP request by the unit: what the client prints."""
        client = [sys.executable, "-m", "demo.apps.client", "--timeout=3", "get", str(host), str(port), "--path=/the-payload-in-question"]
        command = with_resolver(self._resolver, ["env", f"PYTHONPATH={SOURCE}", *client])
        return json.loads(run(cgroups.entering(self._cgroup, in_namespace(self._host.namespace, command))).splitlines()[0])

    def close(self) -> None:
        """Safe to repeat."""
        self.stop()
        for cgroup in (self._cgroup, self._slice):
            if cgroup is not None and not list(root().glob(f"{cgroup.relative_to(root())}/*.service")):
                cgroups.remove(cgroup)
