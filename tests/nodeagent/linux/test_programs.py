"""Programs that are run to their end."""

import errno
import time

import pytest

from nodeagent.linux.errors import KernelError
from nodeagent.linux.namespaces import Namespace
from nodeagent.linux.programs import run
from tests.nodeagent.pods import pair


def test_it_is_given_and_says_more_than_a_pipe_holds() -> None:
    text = "line\n" * 100_000
    assert run(["/bin/cat"], stdin=text) == text


def test_it_knows_nothing_of_our_environment() -> None:
    assert {line.partition("=")[0] for line in run(["/usr/bin/env"]).splitlines()} <= {"PATH", "LC_ALL", "_"}


def test_it_runs_where_the_thread_is() -> None:
    with pair() as network, Namespace.own() as own:
        inside = network.pod.namespace.run(run, ["/bin/readlink", "/proc/self/ns/net"])
        assert str(network.pod.namespace.key.inode) in inside
        assert str(own.key.inode) not in inside


def test_a_failure_has_the_programs_own_words() -> None:
    with pytest.raises(KernelError, match="No such file"):
        run(["/bin/cat", "/absent"])
    with pytest.raises(KernelError, match="is the program there"):
        run(["/absent"])


def test_one_that_hangs_is_killed() -> None:
    begin = time.monotonic()
    with pytest.raises(KernelError) as caught:
        run(["/bin/sleep", "60"], timeout_s=0.1)
    assert caught.value.errno == errno.ETIMEDOUT
    assert time.monotonic() - begin < 10
