"""A trial finds what a capture does not carry out, whatever it says of itself."""

import pytest

from nodeagent.capture import trial
from nodeagent.capture.nftables import NftablesCapture
from nodeagent.capture.ruleset import Mode
from nodeagent.capture.terms import Terms
from nodeagent.capture.tproxied import transaction
from nodeagent.linux.errors import KernelError


@pytest.mark.parametrize(
    ("rule", "instead", "words"),
    [
        ("counter redirect to :15001", "counter accept", "an IPv4 connection to the outside did not come to the proxy"),
        ("tproxy ip to 127.0.0.1:15006 counter accept", "counter accept", "an IPv4 connection from outside did not come to the proxy"),
        ("tproxy ip6 to [::1]:15006 counter accept", "counter drop", "an IPv6 connection from outside did not come to the proxy"),
        ("meta mark & 0xfff == 0x111 accept", "meta mark & 0xfff == 0x111 drop", "the proxy does not reach an application by IPv4"),
    ],
)
def test_rules_that_are_in_force_and_do_something_else(rule: str, instead: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def others(mode: Mode, before: str, terms: Terms) -> str:
        script = transaction(mode, before, terms)
        assert mode is Mode.DRAIN or rule in script
        return script.replace(rule, instead)

    monkeypatch.setattr(trial, "_DEADLINE_S", 0.3)
    with pytest.raises(KernelError, match=words):
        trial.prove(NftablesCapture(others))


def test_without_devices_the_rules_alone_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, other: int) -> None:
        raise KernelError(95, f"pair of devices {name}")

    monkeypatch.setattr(trial.devices, "join", refuse)
    trial.prove(NftablesCapture())
