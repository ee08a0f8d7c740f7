"""What a peer writes ends up in errors, which are kept while the agent is away and sent when it is back: in few words each."""

import msgspec

from nodeagent.ztunnel.protocol import MAX_MESSAGE_BYTES
from tests.nodeagent.ztunnel.proxy.attacks.victim import Victim
from tests.nodeagent.ztunnel.proxy.mesh import echo, server
from tests.nodeagent.ztunnel.proxy.stub import until

MANY = 300
"""More than the proxy sends in one message."""
LONGEST = "\\" * 16_000
"""Fits into the largest header list, and doubles each time that it is quoted."""
MOST_WORDS = 1200


def test_authorities_as_long_as_can_be_make_no_message_that_the_agent_cannot_take(target: Victim) -> None:
    agent = target.served.agent
    with server(target.served.side, echo), target.peer() as peer:
        for _ in range(MANY):
            assert peer.ask(LONGEST) == 400
        until(lambda: len(agent.closed) == MANY)
        assert max(len(entry.error or "") for entry in agent.closed) <= MOST_WORDS
        assert MANY * max(len(msgspec.json.encode(entry)) for entry in agent.closed) < MAX_MESSAGE_BYTES / 2
        assert peer.ask(target.backend) == 200
    assert len(agent.hellos) == 1
