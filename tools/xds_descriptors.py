"""Writes the descriptors of the messages that others define, taken from the `xds-protos` package.

`meshapi/proto/xds.binpb`: discovery, which both sides speak; small, since every agent holds it.
`control/envoy/envoy.binpb`: all of Envoy's v3 interface, which the controller alone speaks.

Run it in an environment of its own that has `xds-protos` (`pip install xds-protos grpcio-tools`): the package is needed
at development time only, since installed at run time it collides with other packages' descriptors.
"""

import importlib
import sys
from collections.abc import Iterable
from pathlib import Path

import envoy
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet

DISCOVERY = ("envoy.service.discovery.v3.discovery_pb2",)


def everything() -> list[str]:
    """The modules of all messages of Envoy that are v3."""
    root = Path(envoy.__path__[0])
    return sorted(".".join(path.relative_to(root.parent).with_suffix("").parts) for path in root.rglob("v3/*_pb2.py"))


def closure(file: FileDescriptor, seen: dict[str, FileDescriptor]) -> None:
    """Adds `file` and what it imports to `seen`, imports first."""
    if file.name in seen:
        return
    for dependency in file.dependencies:
        closure(dependency, seen)
    seen[file.name] = file


def write(target: Path, modules: Iterable[str]) -> None:
    """Writes the descriptors of `modules` and of what they import."""
    seen: dict[str, FileDescriptor] = {}
    for name in modules:
        closure(importlib.import_module(name).DESCRIPTOR, seen)
    descriptors = FileDescriptorSet()
    for file in seen.values():
        file.CopyToProto(descriptors.file.add())
    target.write_bytes(descriptors.SerializeToString(deterministic=True))
    sys.stdout.write(f"{target}: {len(seen)} files, {target.stat().st_size} bytes\n")


if __name__ == "__main__":
    root = Path(__file__).parent.parent
    write(root / "meshapi/proto/xds.binpb", DISCOVERY)
    write(root / "control/envoy/envoy.binpb", everything())
