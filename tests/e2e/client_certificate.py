"""A certificate of a workload's identity in the hands of the test, for clients of HBONE that no agent knows."""

import sys
from pathlib import Path

from demo.shell import run
from demo.waypoint import Waypoint
from nodeagent.ztunnel.protocol import SetIdentity
from tests.e2e.mesh import Mesh, spiffe


def taken(mesh: Mesh, gate: Waypoint, account: str) -> SetIdentity:
    """A certificate of an account of node n1, for a client that no agent knows."""
    node = mesh.cluster.node_directory("n1")
    target = f"{mesh.topology.hosts['controller'].ipv4}:15011"
    script = Path(__file__).parent / "take_certificate.py"
    asked = [sys.executable, str(script), target, str(node / "root.pem"), str(node / "state"), spiffe(account), str(gate.directory)]
    run(["env", f"PYTHONPATH={script.parents[2]}", *asked], namespace=mesh.topology.hosts["n1"].namespace)
    chain, key = ((gate.directory / name).read_text() for name in ("svid.pem", "svid.key"))
    return SetIdentity(spiffe(account), chain, key)
