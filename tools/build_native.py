"""Build hook of the wheel: builds proxy, CNI plugin and eBPF objects and packs them, so that the wheel is complete for its platform."""

import os
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

OBJECTS = "nodeagent/bpf/objects"
PROGRAMS = {"nodeagent/ztunnel/proxy": "nodeagent/ztunnel/bin/nodemesh-proxy", "nodeagent/cni/plugin": "nodeagent/cni/bin/nodemesh-cni"}
"""Their crates, and where the built programs belong."""


class NativeBuild(BuildHookInterface):  # type: ignore[type-arg]
    """Runs for real wheels only: an editable install uses what `make` built."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Builds with cargo and clang and adds what they made."""
        if version == "editable":
            return
        root = Path(self.root)
        for crate, binary in PROGRAMS.items():
            place = root / crate
            subprocess.run(["cargo", "build", "--release", "--locked"], cwd=place, check=True)
            target = Path(os.environ.get("CARGO_TARGET_DIR", place / "target"))
            build_data["force_include"][str(target / "release" / Path(binary).name)] = binary
        for source in sorted((root / "nodeagent/bpf/src").glob("*.bpf.c")):
            built = f"{OBJECTS}/{source.stem}.o"
            subprocess.run([root / "tools/bpf.sh", source, root / built], check=True)
            build_data["force_include"][str(root / built)] = built
        build_data["force_include"][str(root / "deploy/daemonset/base")] = "control/install/base"
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
