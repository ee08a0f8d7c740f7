import threading
from pathlib import Path

import pytest

from nodeagent.linux import netlink, sysctl
from nodeagent.linux.errors import KernelError
from nodeagent.linux.namespaces import Namespace, key_at, run_in_empty
from tests.nodeagent.pods import pair


def test_a_function_runs_inside_and_this_thread_stays_outside() -> None:
    outside = key_at("/proc/thread-self/ns/net")
    with pair() as network:
        inside = network.pod.namespace.run(key_at, "/proc/thread-self/ns/net")
        assert inside == network.pod.namespace.key == key_at(network.pod.namespace.path)
        assert inside != outside
    assert key_at("/proc/thread-self/ns/net") == outside
    assert key_at(network.pod.namespace.path) != inside


def test_what_the_function_raises_is_raised_here_and_no_thread_stays() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        run_in_empty(fail)
    assert threading.active_count() == before


def test_an_empty_namespace_is_empty() -> None:
    assert run_in_empty(netlink.addresses) == ()


def test_what_is_no_network_namespace_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "pod"
    with pytest.raises(KernelError, match=r"pod: No such file"):
        Namespace.open(str(file))
    file.touch()
    with pytest.raises(KernelError, match="is not a network namespace"):
        Namespace.open(str(file))
    with pytest.raises(KernelError, match="is not a network namespace"):
        Namespace.open("/proc/self/ns/mnt")


def test_the_nodes_own_namespace_is_known() -> None:
    with Namespace.own() as own:
        assert own.key == key_at("/proc/self/ns/net")
        own.close()
    with pytest.raises(KernelError, match="Bad file descriptor"):
        own.run(int)


def test_sysctls_are_those_of_the_namespace() -> None:
    name = "net.ipv4.tcp_fwmark_accept"
    outside = sysctl.read(name)

    def change() -> tuple[str | None, str | None]:
        before = sysctl.read(name)
        sysctl.write(name, "1")
        return before, sysctl.read(name)

    assert run_in_empty(change) == ("0", "1")
    assert sysctl.read(name) == outside
    assert sysctl.read("net.ipv4.no_such_thing") is None
    with pytest.raises(KernelError, match=r"net\.ipv4\.no_such_thing=1"):
        sysctl.write("net.ipv4.no_such_thing", "1")
