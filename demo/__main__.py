"""`python -m demo [--vm | --l7] [--keep]`: the whole mesh on this machine, step by step; exit code 0 only if all was told and held."""

import argparse
import signal
import subprocess
import sys
from pathlib import Path

from demo.bookshop.story import CHAPTERS, BookshopStory
from demo.cluster import BIN, Cluster
from demo.report import Report
from demo.story import Story
from demo.topology import Topology
from demo.vm_story import VMStory


def ways(cluster: Cluster) -> list[str]:
    """Commands that show the mesh of the usual story."""
    shop = cluster.topology.hosts["n1"].pods["shop"]
    return [
        f"export PATH={BIN}:$PATH",
        *(f"nodeagent --run-dir {cluster.node_directory(node)}/run status" for node in ("n1", "n2")),
        f"nodeagent --run-dir {cluster.node_directory('n1')}/run explain default/shop api.default.svc.cluster.local:80",
        f"ip netns exec {shop.namespace} curl -s http://10.96.0.10/",
        f"meshctl agents --admin-socket {cluster.admin_socket}",
        f"ls {cluster.config}    # manifests: edit one, or add one",
        f"ip netns exec {cluster.topology.router} tcpdump -ni to-n2 tcp",
    ]


def main() -> int:
    """Runs the story; cleans up whatever happens."""
    parser = argparse.ArgumentParser(description=__doc__)
    stories = parser.add_mutually_exclusive_group()
    stories.add_argument("--vm", action="store_true", help="the story of a virtual machine that joins a mesh")
    stories.add_argument("--l7", action="store_true", help="the story of a bookshop behind a waypoint and a gateway")
    parser.add_argument("--keep", action="store_true", help="leave the mesh running at the end, until Ctrl-C")
    parser.add_argument("--only", action="append", choices=tuple(CHAPTERS), help="of the bookshop's story, this chapter; may be repeated")
    options = parser.parse_args()
    if options.vm and options.keep:
        parser.error("--keep is not for the machine's story, which ends with its leaving")
    if options.only and not options.l7:
        parser.error("--only is for the bookshop's story")
    preflight = Path(__file__).parent.parent / "tools" / "preflight.py"
    if subprocess.run([sys.executable, str(preflight)], check=False).returncode:
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    report = Report()
    try:
        with Topology() as topology, Cluster(topology) as cluster:
            if options.l7:
                BookshopStory(cluster, report, options.only or tuple(CHAPTERS)).tell(keep=options.keep)
            else:
                (VMStory if options.vm else Story)(cluster, report).tell()
            if options.keep and not options.l7:
                report.look_around(ways(cluster))
    except KeyboardInterrupt:
        report.say("interrupted; everything is cleaned up")
        return 128 + signal.SIGINT
    except Exception as error:  # noqa: BLE001  whatever it is, the table must still be shown
        report.console.print(f"\n{type(error).__name__}: {error}", markup=False)
    report.table()
    return 0 if report.all_held else 1


if __name__ == "__main__":
    sys.exit(main())
