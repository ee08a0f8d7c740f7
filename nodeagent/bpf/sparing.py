"""Spares what is open when a host begins to be captured: connections of its ports that are left alone go on."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from nodeagent.bpf import libbpf, walk
from nodeagent.bpf.steering import TERMS, encode
from nodeagent.capture.terms import Terms
from nodeagent.linux.namespaces import Namespace

OBJECT: Final = Path(__file__).parent / "objects/spare_open.bpf.o"
PROGRAM: Final = "spare_open"
_ONLY: Final = 0


def spare_open(namespace: Namespace, ports: Iterable[int]) -> None:
    """Marks those that nobody has marked, once, as new ones of these local ports will be. Blocks; raises KernelError."""
    with libbpf.load(OBJECT, PROGRAM, (TERMS,)) as loaded:
        libbpf.write(loaded.maps[TERMS], _ONLY, encode(Terms(exclude_inbound_ports=tuple(ports))))
        with walk.prepare(loaded.program) as walking:
            namespace.run(walk.walk, walking)
