"""What runs on a machine, by its configuration, its cgroups and what the controller assigned, also before the controller says a word."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from meshapi.attendance import Assigned, Health, Probe, TCPSocket, encode_assignment
from nodeagent.linux.namespaces import key_at
from nodeagent.runtime.base import HOST_NETWORK, LocalWorkload
from nodeagent.state.files import StateDirectory
from nodeagent.vm.health import Verdict
from nodeagent.vm.membership import ASSIGNED, save_assigned
from nodeagent.vm.prober import Prober
from nodeagent.vm.runtime import MachineRuntime
from nodeagent.vm.workloads import UNIT_GRACE_S, members
from nodeagent.xds.channel import Dial
from tests.nodeagent import cgroups
from tests.nodeagent.vm.joined import API, WEB, joined
from tests.nodeagent.waiting import until

WAIT_S = 10.0
AS_WEB = Assigned(WEB, "uid-web", "web-1", "web", address="10.0.0.7", ports=(8080,))
AS_API = Assigned(API, "uid-api", "api-1", "api", address="10.0.0.7")


def nowhere() -> Dial:
    raise OSError("no controller here")


def made(tmp_path: Path, *assigned: Assigned) -> MachineRuntime:
    state = StateDirectory(tmp_path / "state")
    state.prepare()
    save_assigned(state, assigned)
    return MachineRuntime(joined(), tmp_path / "agent.yaml", state, nowhere)


@asynccontextmanager
async def followed(runtime: MachineRuntime) -> AsyncIterator[list[tuple[LocalWorkload, ...]]]:
    """All that the runtime has said."""
    said: list[tuple[LocalWorkload, ...]] = []

    async def follow() -> None:
        async for workloads in runtime.watch():
            said.append(workloads)  # noqa: PERF401 - as they come

    task = asyncio.ensure_future(follow())
    try:
        yield said
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_was_assigned_before_is_served_without_the_controller(tmp_path: Path) -> None:
    runtime = made(tmp_path, AS_WEB)
    async with followed(runtime) as said:
        await until(lambda: bool(said), deadline_s=WAIT_S)
    ((host,),) = said
    assert (host.uid, host.namespace, host.service_account, host.netns) == ("uid-web", "shop", "web", HOST_NETWORK)
    assert host.network == key_at(HOST_NETWORK)
    assert host.whole_host
    assert 22 in host.terms.exclude_inbound_ports
    assert "has not been asked" in runtime.problem


async def test_what_is_assigned_is_kept_and_no_refusal_takes_it_away(tmp_path: Path) -> None:
    runtime = made(tmp_path)
    async with followed(runtime) as said:
        await until(lambda: runtime.problem != "" and runtime._places != (), deadline_s=WAIT_S)
        assert not said, "what a former agent captured stays until something is known"
        runtime._on_assigned((AS_WEB,))
        await until(lambda: bool(said), deadline_s=WAIT_S)
        runtime._on_assigned((Assigned(WEB, problem="its address belongs to Pod shop/p"),))
        assert "belongs to Pod" in runtime.problem
        await asyncio.sleep(0)
        assert (tmp_path / "state" / ASSIGNED).read_bytes().endswith(encode_assignment([AS_WEB]))
    assert len(said) == 1, "to let go of it would open it"


async def test_a_unit_comes_and_goes_beside_the_host(tmp_path: Path) -> None:
    runtime = made(tmp_path, AS_WEB, AS_API)
    with cgroups.made() as cgroup:
        (tmp_path / "agent.yaml").write_text(f"units: {{{cgroup.name}: {{group: shop/api, ports: [9]}}}}\n")
        async with followed(runtime) as said:
            await until(lambda: bool(said) and len(said[-1]) == 2, deadline_s=WAIT_S)
            unit, host = said[-1]
            assert (host.uid, unit.uid) == ("uid-web", "uid-api")
            assert unit.process_group
            assert unit.terms.cgroup == cgroup.name
            assert unit.terms.include_inbound_ports == (9,)
            assert unit.terms.addresses == (), "the host has the address"
            cgroups.remove(cgroup)
            await until(lambda: len(said[-1]) == 1, deadline_s=WAIT_S)
            cgroup.mkdir()
            await until(lambda: len(said[-1]) == 2, deadline_s=WAIT_S)


async def test_a_unit_alone_has_the_address(tmp_path: Path) -> None:
    runtime = made(tmp_path, AS_WEB)
    with cgroups.made() as cgroup:
        (tmp_path / "agent.yaml").write_text(f"units: {{{cgroup.name}: shop/web, gone.service: shop/api}}\n")
        async with followed(runtime) as said:
            await until(lambda: bool(said) and len(said[-1]) == 1, deadline_s=WAIT_S)
        assert said[-1][0].terms.addresses == ("10.0.0.7",)
        assert said[-1][0].terms.include_inbound_ports == (8080,), "those of its group"


async def test_a_configuration_that_turns_bad_leaves_the_last_good_one(tmp_path: Path) -> None:
    runtime = made(tmp_path, AS_WEB, AS_API)
    file = tmp_path / "agent.yaml"
    file.write_text("host: shop/api\n")
    async with followed(runtime) as said:
        await until(lambda: bool(said), deadline_s=WAIT_S)
        file.write_text("host: [\n")
        await until(lambda: "stays in force" in runtime.problem, deadline_s=WAIT_S)
        file.write_text("host: shop/web\n")
        await until(lambda: said[-1][0].uid == "uid-web", deadline_s=WAIT_S)
    assert [workloads[0].uid for workloads in said] == ["uid-api", "uid-web"]


async def test_probes_run_while_they_are_wanted_and_tell_what_they_find() -> None:
    changes: list[int] = []
    answers = {1: "refused", 2: None}

    async def ask(probe: Probe) -> str | None:
        assert isinstance(probe.way, TCPSocket)
        return answers[probe.way.port]

    prober = Prober(lambda: changes.append(1), ask)
    task = asyncio.ensure_future(prober.run())
    try:
        prober.want({WEB: Probe(TCPSocket(1), failure_threshold=1), API: Probe(TCPSocket(2))})
        await until(lambda: {one.health for one in prober.verdicts.values()} == {Health.UNHEALTHY, Health.HEALTHY}, deadline_s=WAIT_S)
        assert prober.verdicts[WEB] == Verdict(Health.UNHEALTHY, "refused")
        prober.want({API: Probe(TCPSocket(1), failure_threshold=1)})
        await until(lambda: prober.verdicts == {API: Verdict(Health.UNHEALTHY, "refused")}, deadline_s=WAIT_S)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert changes


def test_a_unit_that_is_away_for_long_is_no_member(tmp_path: Path) -> None:
    (tmp_path / "agent.yaml").write_text("units: {a.service: shop/web}\n")
    from nodeagent.vm.configuration import read

    places = read(tmp_path / "agent.yaml", joined()).places
    assert [one.group for one in members(places, {}, {})] == [API, WEB]
    assert [one.group for one in members(places, {"a.service": UNIT_GRACE_S - 1}, {})] == [API, WEB]
    assert [one.group for one in members(places, {"a.service": UNIT_GRACE_S}, {})] == [API]
