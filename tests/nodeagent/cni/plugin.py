"""Calls the real plugin as a container runtime does: parameters in the environment, the configuration on standard input."""

import asyncio
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BINARY = Path(__file__).resolve().parents[3] / "nodeagent/cni/bin/nodemesh-cni"
POD_ARGS = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u1"
PREVIOUS = {
    "cniVersion": "1.0.0",
    "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/x"}],
    "ips": [{"interface": 0, "address": "10.77.0.1/24", "gateway": "10.77.0.254"}, {"interface": 0, "address": "fd77::1/64"}],
    "routes": [{"dst": "0.0.0.0/0"}],
    "dns": {"nameservers": ["10.96.0.10"]},
    "of the plugin before": [1, None, {"x": 1.5}],
}


@dataclass(frozen=True)
class Result:
    """How the plugin ended; `said` is what it printed, if that was JSON."""

    status: int
    output: str

    @property
    def said(self) -> Any:
        return json.loads(self.output)

    @property
    def ok(self) -> bool:
        return self.status == 0


def configuration(socket: Path, **more: object) -> dict[str, object]:
    return {"cniVersion": "1.0.0", "name": "net", "type": "nodemesh-cni", "socket": str(socket), "deadline_s": 5, **more}


async def call(command: str, config: object, *, netns: str = "/run/netns/x", args: str = POD_ARGS, **environment: str) -> Result:
    """`config` as bytes goes in as it is."""
    given = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": netns,
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": args,
        "CNI_PATH": "/bin",
    }
    process = await asyncio.create_subprocess_exec(
        BINARY,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={name: value for name, value in (given | environment).items() if value != "<unset>"} | {"PATH": os.defpath},
    )
    text = config if isinstance(config, bytes) else json.dumps(config).encode()
    output, _ = await asyncio.wait_for(process.communicate(text), 60)
    assert process.returncode is not None
    return Result(process.returncode, output.decode())
