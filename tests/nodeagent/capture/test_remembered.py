"""What the table remembers stands in the pod's reach: it is taken for numbers or for nothing."""

import pytest

from nodeagent.capture import groundwork
from nodeagent.capture.base import CaptureState
from nodeagent.capture.nftables import NftablesCapture
from nodeagent.capture.ruleset import Mode
from nodeagent.capture.terms import TOTAL
from nodeagent.capture.tproxied import transaction
from nodeagent.linux import nftables, sysctl
from tests.nodeagent.pods import pair

FORGED = ("0 0 1;", "0 0 0 0", "0 0", "0 0 99999999999", "0 - x", "0 0 $a")


@pytest.mark.parametrize("before", FORGED)
def test_a_forged_memory_is_no_capture_and_is_replaced(before: str) -> None:
    with pair() as network:
        pod, capture = network.pod, NftablesCapture()
        capture.apply(pod.namespace)
        pod.namespace.run(nftables.transact, transaction(Mode.ENFORCE, before, TOTAL))
        assert capture.inspect(pod.namespace).state is CaptureState.BROKEN
        capture.apply(pod.namespace)
        assert capture.inspect(pod.namespace).state is CaptureState.CAPTURED
        assert before not in pod.shell("nft", "list", "ruleset")


def test_removal_is_whole_whatever_is_remembered() -> None:
    with pair() as network:
        pod, capture = network.pod, NftablesCapture()
        capture.apply(pod.namespace)
        pod.namespace.run(nftables.transact, transaction(Mode.ENFORCE, "9 9 9 9", TOTAL))
        capture.remove(pod.namespace)
        assert pod.shell("nft", "list", "ruleset") == ""
        assert "0x111" not in pod.shell("ip", "rule") + pod.shell("ip", "-6", "rule")
        assert pod.namespace.run(sysctl.read, "net.ipv4.tcp_fwmark_accept") == "1", "what it was before is not known any more"


def test_words_that_would_end_the_comment_are_not_taken_over() -> None:
    """No tool writes a quote into a comment, but netlink takes one."""
    for rest in ('0 0 0" ', '0 0 0"}', "0\n0 0", "0\t0 0", "0 0 0\n", "\u0660 0 0"):
        assert groundwork.remembered(f"before {rest}") is None
    assert groundwork.remembered("before 0 1 -") == "0 1 -"
