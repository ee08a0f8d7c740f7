"""The guest's root: this machine's Python, the packages that the mesh needs, the repository, some tools, and what they are linked to."""

import importlib.metadata
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

from packaging.requirements import Requirement

from demo.cluster import BIN
from tests.kernels.archive import Entry
from tests.kernels.debian import Kernel

REPOSITORY = Path(__file__).parent.parent.parent
TOOLS = ("ip", "ss", "nft", "cat", "nsenter", "sysctl", "modprobe", "mount", "umount", "dmesg", "sh", "env")
IPTABLES = tuple(
    f"{word}-{backend}-{what}" for word in ("iptables", "ip6tables") for backend in ("nft", "legacy") for what in ("restore", "save")
)
OF_TESTS = ("pytest", "pytest-asyncio", "pytest-timeout", "hypothesis")
OPENED_BY_NAME = ("libnftables.so.1", "libbpf.so.1")
"""Libraries that no program of the root is linked to."""
MODULES = ("net", "lib", "crypto", "drivers/net/veth.ko", "drivers/net/dummy.ko")
"""Of the kernel's modules; /boot's other drivers are for devices that the guest does not have."""
LINKS = ("/bin", "/sbin", "/lib", "/lib64")
"""Where Debian has links, and the kernel looks for programs."""
NOT_OF_PYTHON = ("test", "tests", "idlelib", "*tkinter*", "lib2to3", "ensurepip", "pydoc_data", "config-*", "site-packages")
CONFIGURATION = {
    "/etc/passwd": b"root:x:0:0::/root:/bin/sh\n",
    "/etc/hosts": b"127.0.0.1 localhost\n::1 localhost\n",
    "/etc/nsswitch.conf": b"hosts: files\n",
}
DIRECTORIES = ("/proc", "/sys", "/dev", "/run", "/tmp", "/root", "/etc/modprobe.d", "/var/lib")


class Root:
    """Collects entries; a path through a symbolic link brings the link and what it leads to."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}

    def add(self, path: Path, *, unwanted: Iterable[str] = ()) -> None:
        """A file, a link, or a directory with all that is in it but what has one of the names in `unwanted` (patterns)."""
        path = self._follow(path)
        if path.is_dir():
            self.entries.setdefault(str(path), Entry())
            for inside in path.iterdir():
                if not any(fnmatch(inside.name, pattern) for pattern in unwanted):
                    self.add(inside, unwanted=unwanted)
        elif path.is_file():
            self.entries[str(path)] = Entry(source=path)

    def add_link(self, path: str) -> None:
        """The link alone, if it is one."""
        if Path(path).is_symlink():
            self.entries[path] = Entry(target=str(Path(path).readlink()))

    def _follow(self, path: Path) -> Path:
        """The path without links; each link on the way becomes an entry."""
        for part in [*reversed(path.parents), path]:
            if part.is_symlink() and part != Path("/"):
                target = part.readlink()
                self.entries[str(part)] = Entry(target=str(target))
                # Joined as the kernel would, `..` after links included.
                rest = path.relative_to(part)
                return self._follow(Path(_normal(part.parent / target)) / rest)
        return path

    def add_libraries(self) -> None:
        """What the programs and libraries among the entries are linked to."""
        programs = [str(entry.source) for entry in self.entries.values() if entry.source and _is_elf(entry.source)]
        # Exit code 1: there are static ones among them.
        said = subprocess.run(["ldd", *programs], capture_output=True, text=True, timeout=120, check=False).stdout
        for line in said.splitlines():
            for word in line.split():
                if word.startswith("/") and not word.endswith(":"):
                    self.add(Path(word))


def build(kernel: Kernel, init: Path) -> dict[str, Entry]:
    """All of it; `init` is the file in the repository that the kernel starts."""
    root = Root()
    for link in LINKS:
        root.add_link(link)
    _add_python(root)
    _add_repository(root)
    for tool in (*TOOLS, *IPTABLES):
        root.add(_which(tool))
    for name in OPENED_BY_NAME:
        root.add(_library(name))
    root.add(_library(OPENED_BY_NAME[0]).parent / "xtables")
    root.add_libraries()
    for module in MODULES:
        root.add(kernel.modules / "kernel" / module)
    for index in kernel.modules.glob("modules.*"):
        root.add(index)
    moved = {_in_guest(path, kernel): entry for path, entry in root.entries.items()}
    start = f"#!{Path(sys.executable)} -u\n".encode() + init.read_bytes()
    return (
        dict.fromkeys(DIRECTORIES, Entry())
        | moved
        | {path: Entry(content=text) for path, text in CONFIGURATION.items()}
        | {"/init": Entry(content=start)}
    )


def _in_guest(path: str, kernel: Kernel) -> str:
    place = Path("/lib").resolve() / "modules" / kernel.release
    return path.replace(str(kernel.modules), str(place), 1) if path.startswith(str(kernel.modules)) else path


def _add_python(root: Root) -> None:
    root.add(Path(sys.executable))
    root.add(BIN / "python")
    root.add(BIN.parent / "pyvenv.cfg")
    root.add(Path(sysconfig.get_path("stdlib")), unwanted=NOT_OF_PYTHON)
    for name in sorted(set().union(*map(_needed, ("nodemesh", *OF_TESTS)))):
        for file in importlib.metadata.distribution(name).files or ():
            root.add(Path(_normal(Path(str(file.locate())))))


def _needed(name: str) -> set[str]:
    """The distribution and all that it depends on, here and without extras."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        if (one := waiting.pop()) not in found:
            found.add(one)
            wanted = map(Requirement, importlib.metadata.requires(one) or ())
            waiting += [each.name for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]
    return found


def _add_repository(root: Root) -> None:
    for part in (REPOSITORY / "tests", *(package.parent for package in REPOSITORY.glob("*/__init__.py"))):
        for pattern in ("*.py", "*.nft", "*.binpb", "*.bpf.o", "*.bpf.c", "*.h"):
            for file in part.rglob(pattern):
                root.add(file)
    for file in ("nodeagent/ztunnel/bin/nodemesh-proxy", "pyproject.toml"):
        root.add(REPOSITORY / file)


def _which(tool: str) -> Path:
    if found := shutil.which(tool):
        return Path(found)
    raise FileNotFoundError(f"{tool}: not on this machine (make test-kernels installs it)")


def _library(name: str) -> Path:
    for line in subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True, timeout=30).stdout.splitlines():
        if line.strip().startswith(f"{name} "):
            return Path(line.split()[-1])
    raise FileNotFoundError(name)


def _normal(path: Path) -> str:
    parts: list[str] = []
    for part in path.parts[1:]:
        if part == "..":
            parts and parts.pop()
        else:
            parts.append(part)
    return "/" + "/".join(parts)


def _is_elf(file: Path) -> bool:
    with file.open("rb") as content:
        return content.read(4) == b"\x7fELF"
