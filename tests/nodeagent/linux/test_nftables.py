import subprocess
import sys

import pytest

from nodeagent.linux import nftables
from nodeagent.linux.errors import KernelError
from nodeagent.linux.namespaces import run_in_empty

RULES = """\
table inet t {
	chain c {
		continue comment "note this"
		tcp dport 80 counter packets 3 bytes 9 accept comment "web"
	}
}
"""


def make(*scripts: str) -> nftables.Table | None:
    for script in scripts:
        nftables.transact(script)
    return nftables.table("inet", "t")


def test_a_table_is_read_as_it_was_written() -> None:
    table = run_in_empty(make, RULES)
    assert table
    assert table.comments == ("note this",)
    assert table.counters == {"web": nftables.Counter(3, 9)}
    assert run_in_empty(nftables.table, "inet", "t") is None


def test_content_ignores_handles_and_counts_and_nothing_else() -> None:
    plain = run_in_empty(make, RULES)
    moved = run_in_empty(make, RULES, "delete table inet t", RULES.replace("packets 3 bytes 9", ""))
    other = run_in_empty(make, RULES.replace("80", "81"))
    longer = run_in_empty(make, RULES, "add rule inet t c accept")
    assert plain
    assert moved
    assert other
    assert longer
    assert plain.content == moved.content
    assert len({plain.content, other.content, longer.content}) == 3


def test_a_transaction_is_whole_or_nothing_and_the_error_has_the_kernels_words() -> None:
    def attempt() -> nftables.Table | None:
        with pytest.raises(KernelError, match="No such file or directory"):
            nftables.transact(RULES + "add rule inet t absent accept\n")
        with pytest.raises(KernelError, match="syntax error"):
            nftables.transact("table inet t {")
        return nftables.table("inet", "t")

    assert run_in_empty(attempt) is None


def test_it_works_when_the_process_has_no_descriptor_left() -> None:
    """In a process of its own: the library would end it."""
    program = """
import os, resource
from nodeagent.linux import nftables
from nodeagent.linux.namespaces import run_in_empty

def exhausted():
    nftables.transact("table inet t {}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    taken = []
    try:
        while True:
            taken.append(os.dup(0))
    except OSError:
        pass
    nftables.transact("table inet u {}")
    found = nftables.table("inet", "u") is not None
    for descriptor in taken:
        os.fstat(descriptor)
        os.close(descriptor)
    print("found", found)

run_in_empty(exhausted)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "found True\n", "")
