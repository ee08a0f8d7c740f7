"""The steering program in a real namespace: attached, replaced, outliving its maker, taken off without a trace."""

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from nodeagent.bpf import libbpf, steering
from nodeagent.bpf.kubelet import PROBES
from nodeagent.bpf.libbpf import AttachType
from nodeagent.bpf.pinned import LINK
from nodeagent.bpf.steering import OBJECT, PROGRAM, REASONS, SLOTS, Reason, Slot, Steering
from nodeagent.capture.ebpf import slot_of
from nodeagent.capture.listeners import open_listeners
from nodeagent.linux.errors import KernelError
from nodeagent.linux.namespaces import Namespace
from tests.nodeagent.bpf import objects
from tests.nodeagent.bpf.objects import COMPILE, eventually_gone, ids
from tests.nodeagent.pods import Pair, refused
from tests.nodeagent.standin import Application

PORT = 8080
LICENCE = 'char LICENSE[] SEC("license") = "Dual BSD/GPL";'


Listeners = dict[Slot, socket.socket]


@pytest.fixture
def listeners(network: Pair) -> Iterator[Listeners]:
    """The proxy's in the pod; closed with the test."""
    with ExitStack() as stack:
        made = {}
        for listener in open_listeners(network.pod.namespace):
            stack.enter_context(listener.socket).settimeout(5)
            if (slot := slot_of(listener)) is not None:
                made[slot] = listener.socket
        yield made


def close(listeners: Listeners) -> None:
    for listener in listeners.values():
        listener.close()


def variant(directory: Path, name: str, *changes: tuple[str, str]) -> Path:
    """The program as another version might have it."""
    return objects.variant(directory, name, OBJECT.name, *changes)


def pins_of(root: Path, namespace: Namespace) -> Path:
    return root / f"{PROGRAM}-{namespace.id}"


def test_from_attaching_on_nobody_but_the_listener_is_reached(root: Path, network: Pair, listeners: Listeners) -> None:
    pod, client = network.pod, network.client
    it = Steering(root)
    assert it.inspect(pod.namespace) is None
    with Application(pod, PORT) as application:
        it.attach(pod.namespace, listeners)
        for slot, address in ((Slot.INBOUND, "10.77.0.1"), (Slot.INBOUND6, "fd77::1")):
            with client.dial(address, PORT) as made, listeners[slot].accept()[0] as accepted:
                assert accepted.getsockname()[:2] == (address, PORT)
                assert accepted.getpeername() == made.getsockname()
        with client.dial("10.77.0.1", 15008), listeners[Slot.HBONE].accept()[0] as accepted:
            assert accepted.getsockname()[:2] == ("::ffff:10.77.0.1", 15008)
        with pod.dial("127.0.0.1", PORT):
            assert application.peers.get(timeout=3) == "127.0.0.1"
        close(listeners)
        assert refused(lambda: client.dial("10.77.0.1", PORT))
        assert refused(lambda: client.dial("10.77.0.1", 15008))
        assert application.peers.empty()
    found = it.inspect(pod.namespace)
    assert found is not None
    assert found.current
    assert found.listeners == frozenset()
    assert found.lookups == dict.fromkeys(Reason, 0) | {
        Reason.LOOPBACK: 1,
        Reason.INBOUND: 2,
        Reason.HBONE: 1,
        Reason.NO_LISTENER: 2,
    }


def test_other_protocols_are_left_alone(root: Path, network: Pair) -> None:
    pod, client = network.pod, network.client
    Steering(root).attach(pod.namespace, {})
    with pod.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as served, client.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        served.bind(("10.77.0.1", PORT))
        made.sendto(b"datagram", ("10.77.0.1", PORT))
        assert served.recvfrom(100)[0] == b"datagram"


def test_detaching_leaves_nothing(root: Path, network: Pair, listeners: Listeners) -> None:
    pod, client = network.pod, network.client
    it = Steering(root)
    it.attach(pod.namespace, listeners)
    held = ids(root)
    assert [len(numbers) for numbers in held.values()] == [1, len(steering.MAPS) + 1, 1]
    it.detach(pod.namespace)
    it.detach(pod.namespace)
    assert list(root.iterdir()) == []
    eventually_gone(held)
    with Application(pod, PORT) as application, client.dial("10.77.0.1", PORT):
        assert application.peers.get(timeout=3) == "10.77.0.2"


def test_an_attachment_that_fails_leaves_nothing(root: Path, network: Pair) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as idle, pytest.raises(KernelError):
        Steering(root).attach(network.pod.namespace, {Slot.INBOUND: idle})
    assert not list(root.glob("*/*"))
    assert Steering(root).inspect(network.pod.namespace) is None


@pytest.mark.parametrize("name", [SLOTS, REASONS, LINK])
def test_a_pin_that_is_gone_is_made_anew(root: Path, network: Pair, listeners: Listeners, name: str) -> None:
    pod, client = network.pod, network.client
    it = Steering(root)
    it.attach(pod.namespace, listeners)
    (pins_of(root, pod.namespace) / name).unlink()
    assert (found := it.inspect(pod.namespace)) is None or not found.current
    it.attach(pod.namespace, listeners)
    assert steered(it, pod.namespace).current
    assert steered(it, pod.namespace).listeners == frozenset(Slot)
    with client.dial("10.77.0.1", PORT), listeners[Slot.INBOUND].accept()[0] as accepted:
        assert accepted.getsockname() == ("10.77.0.1", PORT)


KILLED = """
import os, signal, sys
from pathlib import Path
from nodeagent.bpf.steering import Steering
from nodeagent.linux.namespaces import Namespace
Steering(Path(sys.argv[1])).attach(Namespace.open(sys.argv[2]), {})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_it_works_on_when_its_maker_is_killed(root: Path, network: Pair, listeners: Listeners) -> None:
    pod, client = network.pod, network.client
    done = subprocess.run([sys.executable, "-c", KILLED, str(root), pod.namespace.path], check=False, timeout=30)
    assert done.returncode == -signal.SIGKILL
    with Application(pod, PORT) as application:
        assert refused(lambda: client.dial("10.77.0.1", PORT))
        assert application.peers.empty()
    Steering(root).attach(pod.namespace, listeners)
    with client.dial("10.77.0.1", PORT), listeners[Slot.INBOUND].accept()[0] as accepted:
        assert accepted.getsockname() == ("10.77.0.1", PORT)


def test_another_version_takes_over_in_place_without_a_gap(root: Path, network: Pair, listeners: Listeners, tmp_path: Path) -> None:
    pod, client = network.pod, network.client
    same = variant(tmp_path, "same", ("int steer_inbound", "/* Compiled anew. */\n\nint steer_inbound"))
    newer = variant(tmp_path, "newer", ("return REASON_NOT_ASSIGNED;", "return REASON_NO_LISTENER;"))
    versions = [Steering(root), Steering(root, newer)]
    assert tag(same) == tag(OBJECT) != tag(newer), "only other instructions are another version"
    versions[0].attach(pod.namespace, listeners)
    before = ids(root)
    stop, reached = threading.Event(), []

    def dial() -> None:
        while not stop.is_set():
            with client.dial("10.77.0.1", PORT), listeners[Slot.INBOUND].accept()[0]:
                reached.append(time.monotonic())

    with Application(pod, PORT) as application:
        thread = threading.Thread(target=dial)
        thread.start()
        for index in range(40):
            assert not steered(versions[index % 2 - 1], pod.namespace).current
            versions[index % 2 - 1].attach(pod.namespace, {})
            assert steered(versions[index % 2 - 1], pod.namespace).current
        stop.set()
        thread.join(10)
        assert application.peers.empty()
    assert reached
    assert steered(versions[0], pod.namespace).lookups[Reason.INBOUND] == len(reached), "nothing was counted anew, nothing was lost"
    assert {kind: ids(root)[kind] for kind in ("map_id", "link_id")} == {kind: before[kind] for kind in ("map_id", "link_id")}
    assert ids(root)["prog_id"] != before["prog_id"]


def tag(program: Path) -> bytes:
    with libbpf.load(program, PROGRAM, (SLOTS, REASONS)) as loaded:
        return libbpf.program_info(loaded.program).tag


def steered(it: Steering, namespace: Namespace) -> steering.Steered:
    found = it.inspect(namespace)
    assert found is not None
    return found


def test_maps_of_another_layout_are_refused_and_stay(root: Path, network: Pair, listeners: Listeners, tmp_path: Path) -> None:
    pod, client = network.pod, network.client
    Steering(root).attach(pod.namespace, listeners)
    wider = variant(tmp_path, "wider", ("#define REASONS_ROOM 64", "#define REASONS_ROOM 65"))
    held = ids(root)
    with pytest.raises(KernelError, match="another version of the agent made them"):
        Steering(root, wider).attach(pod.namespace, {})
    assert ids(root) == held
    with client.dial("10.77.0.1", PORT), listeners[Slot.INBOUND].accept()[0] as accepted:
        assert accepted.getsockname() == ("10.77.0.1", PORT)


def test_what_is_left_of_a_namespace_that_is_gone_is_swept_and_never_taken_for_another(root: Path, network: Pair) -> None:
    it = Steering(root)
    it.attach(network.client.namespace, {})
    name = f"nm-gone-{network.pod.name}"
    subprocess.run(["ip", "netns", "add", name], check=True, timeout=10)
    try:
        with Namespace.open(f"/run/netns/{name}") as gone:
            it.attach(gone, {})
            assert it.inspect(gone) is not None
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True, timeout=10)
    left = pins_of(root, gone)
    with libbpf.pinned(left / LINK) as link:
        objects.eventually(lambda: not libbpf.link_info(link, AttachType.SK_LOOKUP).target)
    left.rename(pins_of(root, network.pod.namespace))
    assert it.inspect(network.pod.namespace) is None
    it.sweep()
    assert {pins.name for pins in root.iterdir()} == {f"{PROGRAM}-{network.client.namespace.id}", PROBES}


def test_an_object_that_was_not_built_says_how(root: Path, network: Pair, tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="make bpf"):
        Steering(root, tmp_path / "absent.bpf.o").attach(network.pod.namespace, {})


def test_a_program_that_the_verifier_refuses_says_why(tmp_path: Path) -> None:
    bad = tmp_path / "bad.bpf.c"
    bad.write_text(
        "#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\n"
        f'SEC("sk_lookup") int steer_inbound(struct bpf_sk_lookup *ctx) {{ return ctx->family; }}\n{LICENCE}\n'
    )
    subprocess.run([COMPILE, bad, tmp_path / "bad.bpf.o"], check=True, timeout=60)
    with pytest.raises(KernelError, match="R0"):
        libbpf.load(tmp_path / "bad.bpf.o", PROGRAM, ())
