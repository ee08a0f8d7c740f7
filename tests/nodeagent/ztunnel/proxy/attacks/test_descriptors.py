"""Out of descriptors on the serving side: every request is answered, what is open goes on, nothing spins, and it comes back."""

import os
import resource
import socket
import time
from contextlib import ExitStack

import psutil

from tests.nodeagent.ztunnel.proxy.attacks import frames
from tests.nodeagent.ztunnel.proxy.attacks.victim import Victim
from tests.nodeagent.ztunnel.proxy.mesh import echo, server
from tests.nodeagent.ztunnel.proxy.stub import until

SPARE = 8
WATCHED_S = 1.0


def _cpu_share(target: Victim) -> float:
    """Of one core, over a second."""
    begin_s, begin_cpu_s = time.monotonic(), target.cpu_s()
    until(lambda: time.monotonic() - begin_s > WATCHED_S)
    return (target.cpu_s() - begin_cpu_s) / (time.monotonic() - begin_s)


def test_without_descriptors_requests_are_answered_and_the_open_ones_go_on(target: Victim) -> None:
    with server(target.served.side, echo), target.peer() as peer:
        stream = peer.open(target.backend)
        assert peer.status(stream) == 200
        assert peer.echo(stream, b"before")
        process = psutil.Process(target.served.process.pid)
        most = process.num_fds() + SPARE
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (most, most))

        # Applications' sockets run out first: the requests that get none are told so.
        streams = [peer.open(target.backend) for _ in range(60)]
        statuses = [peer.status(one) for one in streams]
        assert set(statuses) == {200, 503}
        assert peer.echo(stream, b"meanwhile")

        # Then whole tunnels: connections that cannot be accepted wait or are turned away, at little cost.
        with ExitStack() as stack:
            for _ in range(100):
                waiting = stack.enter_context(target.stranger.open_socket(socket.AF_INET))
                waiting.settimeout(0)
                waiting.connect_ex((target.served.address, 15008))
            until(lambda: target.served.agent.report().shed.get("descriptors", 0) > 0)
            assert _cpu_share(target) < 0.3

        # Shedding may have taken the stream that was idle for longest, never the process; what is given back can be used again.
        peer.send(b"".join(frames.reset(one) for one, status in zip(streams, statuses, strict=True) if status == 200))
        until(lambda: target.served.agent.report().connections <= 1 and process.num_fds() <= most - SPARE // 2)
        with target.peer() as again:
            assert again.ask(target.backend) == 200
        target.served.restart_agent()
        for _, descriptors in target.served.agent.held:
            for descriptor in descriptors:
                os.close(descriptor)
        with target.peer() as again:
            assert again.ask(target.backend) == 200
