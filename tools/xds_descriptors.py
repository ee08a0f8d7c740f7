"""Writes meshapi/proto/xds.binpb: the descriptors of the xDS messages that nodemesh speaks, taken from the `xds-protos` package.

Run it in an environment of its own that has `xds-protos` (`pip install xds-protos grpcio-tools`): the package is needed
at development time only, since installed at run time it collides with other packages' descriptors.
"""

import importlib
import sys
from pathlib import Path

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet

MODULES = ("envoy.service.discovery.v3.discovery_pb2",)


def closure(file: FileDescriptor, seen: dict[str, FileDescriptor]) -> None:
    """Adds `file` and what it imports to `seen`, imports first."""
    if file.name in seen:
        return
    for dependency in file.dependencies:
        closure(dependency, seen)
    seen[file.name] = file


def main(target: Path) -> None:
    seen: dict[str, FileDescriptor] = {}
    for name in MODULES:
        closure(importlib.import_module(name).DESCRIPTOR, seen)
    descriptors = FileDescriptorSet()
    for file in seen.values():
        file.CopyToProto(descriptors.file.add())
    target.write_bytes(descriptors.SerializeToString(deterministic=True))
    sys.stdout.write(f"{target}: {len(seen)} files, {target.stat().st_size} bytes\n")


if __name__ == "__main__":
    main(Path(__file__).parent.parent / "meshapi/proto/xds.binpb")
