"""Finding pods' namespaces: real namespaces, real processes in cgroups that are named as a kubelet names them."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.linux.namespaces import Namespace
from nodeagent.linux.process import started_ticks
from nodeagent.runtime.places import Place, Places, Sought
from nodeagent.runtime.pod_processes import PodProcess, by_pod, open_namespace, pod_cgroup, pod_uid, usual_cgroups
from tests.nodeagent.pod_sandbox import Sandbox, Sandboxes, cgroup_root, sandboxes

A, B = "2f1f3b4e-6f4d-4c3e-9f5a-0a1b2c3d4e5f", "11111111-2222-3333-4444-555555555555"


@pytest.fixture
def made() -> Iterator[Sandboxes]:
    with sandboxes() as pods:
        yield pods


@pytest.fixture
def places() -> Iterator[Places]:
    one = Places()
    yield one
    one.close()


def sought(pod: Sandbox, *addresses: str, told: str = "") -> Sought:
    return Sought(pod.uid, addresses, told)


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def proc_path(pod: Sandbox) -> str:
    return f"/proc/{pod.pid}/ns/net"


def place(pod: Sandbox) -> Place:
    """By its process."""
    return Place(proc_path(pod), pod.key, started_ticks(pod.pid) or 0, str(pod.cgroup.parent.relative_to(cgroup_root())))


@pytest.mark.parametrize(
    ("cgroups", "uid"),
    [
        (f"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{A.replace('-', '_')}.slice/cri-containerd-1.scope", A),
        (f"0::/kubepods.slice/kubepods-pod{A.replace('-', '_')}.slice/crio-1.scope\n", A),
        (f"12:pids:/kubepods/besteffort/pod{A}/1\n1:name=systemd:/kubepods/besteffort/pod{A}/1\n0::/\n", A),
        (f"0::/kubelet/kubepods/pod{A.upper()}", A),
        (f"0::/../../kubepods/pod{A}/1", A),
        (f"0::/kubepods/pod{A}/1/kubepods/pod{B}/2", A),
        (f"0::/kubepods/pod{A}x/1", None),
        (f"0::/kubepods/{A}/1", None),
        (f"0::/kubepods/pod{A[:-1]}/1", None),
        ("0::/system.slice/sshd.service", None),
        ("", None),
        ("garbage\0", None),
    ],
)
def test_the_pod_is_in_the_name_of_its_cgroup(cgroups: str, uid: str | None) -> None:
    assert pod_uid(cgroups) == uid


def test_the_pod_s_cgroup_is_above_its_containers() -> None:
    unit = f"kubepods-burstable-pod{A.replace('-', '_')}.slice"
    above = f"kubepods.slice/kubepods-burstable.slice/{unit}"
    assert pod_cgroup(f"4:memory:/x\n0::/{above}/cri-1.scope\n") == above
    assert pod_cgroup(f"0::/kubepods/pod{A}/1/kubepods/pod{B}/2") == f"kubepods/pod{A}"
    assert pod_cgroup(f"4:memory:/kubepods/pod{A}/1") == "", "version 1 is of no use"
    assert pod_cgroup(f"0::/../../kubepods/pod{A}") == "", "outside of what is seen here"
    assert {above, f"kubepods/pod{A}", f"kubepods/besteffort/pod{A}"} < set(usual_cgroups(A))
    assert f"kubepods.slice/kubepods-pod{A.replace('-', '_')}.slice" in usual_cgroups(A)
    for path in usual_cgroups(A):
        assert pod_uid(f"0::/{path}/c") == A


@pytest.mark.parametrize("systemd", [True, False])
def test_a_pod_that_runs_is_found_by_its_processes(places: Places, *, systemd: bool) -> None:
    with sandboxes(systemd=systemd) as made:
        web, api = made.add("10.9.0.1"), made.add("10.9.0.2")
        found = places.find([sought(web, "10.9.0.1"), sought(api, "10.9.0.2")])
        assert found == {pod.uid: place(pod) for pod in (web, api)}
        assert not places.missing
        assert not places.moved()


def test_a_namespace_without_the_pod_s_address_is_not_the_pod_s(made: Sandboxes, places: Places) -> None:
    pod = made.add("10.9.0.1")
    assert places.find([sought(pod, "10.9.0.1", "10.9.0.9")]) == {}
    assert "does not have the pod's address 10.9.0.9" in places.missing[pod.uid]


def test_a_pod_without_an_address_is_not_looked_for(made: Sandboxes, places: Places) -> None:
    pod = made.add("10.9.0.1")
    assert places.find([sought(pod)]) == {}
    assert places.missing == {pod.uid: "it has no address yet"}


def test_the_node_s_own_network_is_nobody_s(made: Sandboxes, places: Places) -> None:
    pod = made.add(process=False)
    pod.processes.append(subprocess.Popen(["sh", "-c", f"echo $$ > {pod.cgroup}/cgroup.procs && exec sleep 600"]))
    assert places.find([sought(pod, "127.0.0.1")]) == {}
    assert places.find([sought(pod, told="/proc/self/ns/net")]) == {}
    assert "the node's own network" in places.missing[pod.uid]


def test_the_oldest_process_has_the_pod_s_namespace_whatever_others_make(made: Sandboxes, places: Places) -> None:
    pod, other = made.add("10.9.0.1"), made.add("10.9.0.1")
    # A container that makes a namespace of its own, and gives it the pod's address.
    pod.start("nsenter", f"--net={other.netns}", "--", "sleep", "600", becomes="sleep")
    assert len(by_pod({pod.uid})[pod.uid]) == 2
    assert places.find([sought(pod, "10.9.0.1")])[pod.uid].key == pod.key


def test_a_pid_that_is_another_s_leads_nowhere(made: Sandboxes) -> None:
    pod = made.add("10.9.0.1")
    (process,) = by_pod({pod.uid})[pod.uid]
    assert process == PodProcess(started_ticks(pod.pid) or 0, pod.pid)
    namespace = open_namespace(process, pod.uid)
    assert namespace is not None
    assert namespace.key == pod.key
    namespace.close()
    assert open_namespace(process._replace(started_ticks=process.started_ticks - 1), pod.uid) is None
    assert open_namespace(process, B) is None
    assert by_pod({B}) == {}


def test_the_plugin_s_word_comes_first_and_is_proved_too(made: Sandboxes, places: Places) -> None:
    pod, wrong = made.add("10.9.0.1"), made.add("10.9.0.2")
    assert places.find([sought(pod, "10.9.0.1", told=pod.netns)]) == {pod.uid: Place(pod.netns, pod.key)}
    places.find([])
    found = places.find([sought(pod, "10.9.0.1", told=wrong.netns)])
    assert found[pod.uid].key == pod.key, "what was told is not right: its processes lead to it"
    for told in ("/run/netns/nowhere", "/etc/passwd", "/dev/zero"):
        assert places.find([sought(pod, "10.9.0.1", told=told)])[pod.uid].key == pod.key


def test_a_pod_that_has_not_started_is_where_the_plugin_says(made: Sandboxes, places: Places) -> None:
    pod = made.add("10.9.0.1", process=False)
    assert places.find([Sought(pod.uid, (), pod.netns, ("10.9.0.1",))])[pod.uid].key == pod.key
    places.find([])
    assert places.find([Sought(pod.uid, (), pod.netns, ("10.9.0.7",))]) == {}


def test_what_was_found_stays_while_it_is_there(made: Sandboxes, places: Places) -> None:
    pod = made.add("10.9.0.1")
    before = places.find([sought(pod, "10.9.0.1")])
    pod.ip("address", "delete", "10.9.0.1/24", "dev", "eth0")
    assert places.find([sought(pod, "10.9.0.1")]) == before, "a pod that takes its address off does not leave the mesh by that"
    assert places.find([sought(pod, "10.9.0.1", told=pod.netns)]) == before, "nor is it another by another path"


def test_a_sandbox_that_was_made_anew_is_taken(made: Sandboxes, places: Places) -> None:
    first, second = made.add("10.9.0.1"), made.add("10.9.0.1", process=False)
    one = Sought(first.uid, ("10.9.0.1",), first.netns)
    assert places.find([one])[first.uid].key == first.key
    assert places.find([Sought(first.uid, ("10.9.0.1",), second.netns)])[first.uid].key == second.key


def test_what_is_gone_is_let_go(made: Sandboxes, places: Places) -> None:
    pod = made.add("10.9.0.1")
    places.find([sought(pod, told=pod.netns)])
    before = descriptors()
    pod.end()
    assert places.moved()
    assert places.find([sought(pod, "10.9.0.1", told=pod.netns)]) == {}
    assert descriptors() == before - 1, "else the namespace would live on, with the pod's address"


def test_looking_again_is_not_done_all_the_time(made: Sandboxes, places: Places) -> None:
    pod = made.add("10.9.0.1", process=False)
    one = sought(pod, "10.9.0.1")
    assert places.find([one]) == {}
    assert not places.due()
    pod.start("sleep", "600")
    assert places.find([one]) == {}, "whoever asks too soon is not answered anew"


def test_nothing_is_left_open(made: Sandboxes) -> None:
    pod = made.add("10.9.0.1")
    before = descriptors()
    places = Places()
    for addresses in (("10.9.0.1",), ("10.9.0.9",)):
        places.find([sought(pod, *addresses)])
        places.find([sought(pod, *addresses, told=pod.netns)])
    places.close()
    assert descriptors() == before
    with Namespace.own() as own:
        assert own.key != pod.key
