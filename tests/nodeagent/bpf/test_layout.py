"""What Python believes of C: the shared header, the maps of the object, the kernel's structures."""

import ctypes
import re
import subprocess
from enum import IntEnum
from pathlib import Path

import pytest

from nodeagent.bpf import kubelet, libbpf, steering
from nodeagent.bpf.info import Info, RunOptions
from nodeagent.bpf.kubelet import Recording
from nodeagent.bpf.steering import OBJECT, Reason, Slot
from nodeagent.capture.terms import TOTAL

SOURCES = Path(steering.__file__).parent / "src"


@pytest.mark.parametrize(
    ("header", "name", "ours", "end"),
    [
        ("steering.h", "slot", Slot, "SLOTS"),
        ("steering.h", "reason", Reason, "REASONS"),
        ("recording.h", "recording", Recording, "RECORDINGS"),
    ],
)
def test_the_enumerations_are_those_of_the_header(header: str, name: str, ours: type[IntEnum], end: str) -> None:
    text = re.sub(r"/\*.*?\*/", "", (SOURCES / header).read_text(), flags=re.DOTALL)
    [body] = re.findall(rf"enum {name} {{(.*?)}}", text, re.DOTALL)
    *members, last = re.findall(r"\w+", body)
    assert last == end
    assert [member.removeprefix(f"{name.upper()}_") for member in members] == [member.name for member in ours]
    assert list(ours) == list(range(len(members)))


def test_the_maps_are_as_the_views_read_them() -> None:
    slots, reasons = libbpf.shape(OBJECT, steering.SLOTS), libbpf.shape(OBJECT, steering.REASONS)
    assert slots.max_entries >= len(Slot)
    assert reasons.max_entries >= len(Reason)
    assert (slots.key_size, slots.value_size) == (4, 8)
    assert (reasons.key_size, reasons.value_size) == (4, 8)
    terms = libbpf.shape(OBJECT, steering.TERMS)
    assert (terms.key_size, terms.value_size, terms.max_entries) == (4, len(steering.encode(TOTAL)), 1)
    recordings = libbpf.shape(kubelet.OBJECT, kubelet.RECORDINGS)
    assert recordings.max_entries >= len(Recording)
    assert (recordings.key_size, recordings.value_size) == (4, 8)


def test_both_programs_have_the_same_table_of_probes() -> None:
    assert libbpf.shape(OBJECT, kubelet.PROBES) == libbpf.shape(kubelet.OBJECT, kubelet.PROBES)


@pytest.mark.parametrize(
    ("structure", "fields"),
    [
        (Info.Map, {"struct bpf_map_info": ["type", "id", "key_size", "value_size", "max_entries"]}),
        (Info.Link, {"struct bpf_link_info": ["prog_id", "netns.netns_ino"]}),
        (Info.CgroupLink, {"struct bpf_link_info": ["prog_id", "cgroup.cgroup_id"]}),
        (Info.Program, {"struct bpf_prog_info": ["id", "tag", "name", "nr_map_ids", "map_ids", "netns_ino", "verified_insns"]}),
        (RunOptions, {"struct bpf_test_run_opts": ["ctx_in", "ctx_out", "ctx_size_in", "ctx_size_out", "retval", "batch_size"]}),
    ],
)
def test_fields_are_where_the_headers_have_them(structure: type[ctypes.Structure], fields: dict[str, list[str]], tmp_path: Path) -> None:
    [(name, members)] = fields.items()
    lines = "".join(f'printf("%zu %zu\\n", __builtin_offsetof({name}, {member}), sizeof((({name} *)0)->{member}));' for member in members)
    source = tmp_path / "offsets.c"
    source.write_text(f"#include <stdio.h>\n#include <linux/bpf.h>\n#include <bpf/bpf.h>\nint main(void) {{ {lines} return 0; }}\n")
    subprocess.run(["cc", "-o", str(tmp_path / "offsets"), str(source)], check=True, timeout=60)
    there = subprocess.run([str(tmp_path / "offsets")], check=True, capture_output=True, text=True, timeout=10).stdout.splitlines()
    here = [getattr(structure, member.rpartition(".")[2]) for member in members]
    assert [f"{field.offset} {field.size}" for field in here] == there
