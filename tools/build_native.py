"""Build hook of the wheel: builds the node proxy and the eBPF objects and packs them, so that the wheel is complete for its platform."""

import os
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

OBJECTS = "nodeagent/bpf/objects"
BINARY = "nodeagent/ztunnel/bin/nodemesh-proxy"


class NativeBuild(BuildHookInterface):  # type: ignore[type-arg]
    """Runs for real wheels only: an editable install uses what `make` built."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Builds with cargo and clang and adds what they made."""
        if version == "editable":
            return
        root = Path(self.root)
        crate = root / "nodeagent/ztunnel/proxy"
        subprocess.run(["cargo", "build", "--release", "--locked"], cwd=crate, check=True)
        target = Path(os.environ.get("CARGO_TARGET_DIR", crate / "target"))
        build_data["force_include"][str(target / "release/nodemesh-proxy")] = BINARY
        for source in sorted((root / "nodeagent/bpf/src").glob("*.bpf.c")):
            built = f"{OBJECTS}/{source.stem}.o"
            subprocess.run([root / "tools/bpf.sh", source, root / built], check=True)
            build_data["force_include"][str(root / built)] = built
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
