import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nodeagent.cni.conflist import CNIPlaces, PluginEntry
from nodeagent.cni.installation import Installation
from tests.nodeagent.waiting import until

ENTRY = PluginEntry("/run/nodemesh/cni.sock")
LIST = json.dumps({"name": "n", "cniVersion": "1.0.0", "plugins": [{"type": "ptp"}]})
SINGLE = json.dumps({"name": "n", "cniVersion": "1.0.0", "type": "ptp"})


@pytest.fixture
def places(tmp_path: Path) -> CNIPlaces:
    made = CNIPlaces(tmp_path / "bin", tmp_path / "net.d")
    made.bin_dir.mkdir()
    made.conf_dir.mkdir()
    (tmp_path / "plugin").write_bytes(b"program")
    return made


def installation(places: CNIPlaces, entry: PluginEntry = ENTRY) -> Installation:
    return Installation(places, entry, binary=places.bin_dir.parent / "plugin")


def chain(file: Path) -> list[str]:
    return [plugin["type"] for plugin in json.loads(file.read_text())["plugins"]]


def contents(places: CNIPlaces) -> dict[str, str]:
    return {file.name: file.read_text() for directory in (places.bin_dir, places.conf_dir) for file in directory.iterdir()}


def test_into_the_first_list_and_out_again(places: CNIPlaces) -> None:
    first, second = places.conf_dir / "10-a.conflist", places.conf_dir / "20-b.conflist"
    for file in (first, second):
        file.write_text(LIST)
    first.chmod(0o640)
    one = installation(places)
    one.install(renew=True)
    assert not one.problem
    assert (chain(first), chain(second)) == (["ptp", "nodemesh-cni"], ["ptp"])
    program = places.bin_dir / "nodemesh-cni"
    assert (program.read_bytes(), program.stat().st_mode & 0o777, first.stat().st_mode & 0o777) == (b"program", 0o755, 0o640)
    before = first.stat().st_ino
    one.install()
    assert first.stat().st_ino == before, "what is as it should be is not written again"
    one.remove()
    assert json.loads(first.read_text()) == json.loads(LIST)
    assert set(contents(places)) == {"10-a.conflist", "20-b.conflist"}


def test_a_single_plugin_becomes_a_list_and_comes_back(places: CNIPlaces) -> None:
    file = places.conf_dir / "10-a.conf"
    file.write_text(SINGLE)
    one = installation(places)
    one.install()
    assert chain(places.conf_dir / "10-a.conf.nodemesh.conflist") == ["ptp", "nodemesh-cni"]
    assert not file.exists(), "it sorts before the list, and would be taken"
    file.write_text(SINGLE.replace("ptp", "bridge"))  # the network's own agent puts it back, changed
    one.install()
    assert chain(places.conf_dir / "10-a.conf.nodemesh.conflist") == ["bridge", "nodemesh-cni"]
    one.remove()
    assert contents(places) == {"10-a.conf": SINGLE.replace("ptp", "bridge")}


def test_a_list_that_others_changed_is_not_thrown_away(places: CNIPlaces) -> None:
    (places.conf_dir / "10-a.conf").write_text(SINGLE)
    one = installation(places)
    one.install()
    made = places.conf_dir / "10-a.conf.nodemesh.conflist"
    changed = json.loads(made.read_text())
    changed["plugins"].insert(1, {"type": "portmap"})
    made.write_text(json.dumps(changed))
    one.remove()
    assert list(contents(places)) == ["10-a.conf.nodemesh.conflist"]
    assert chain(made) == ["ptp", "portmap"]


def test_what_is_malformed_is_left_alone_and_told(places: CNIPlaces) -> None:
    (places.conf_dir / "10-a.conflist").write_text("{")
    one = installation(places)
    one.install()
    assert "10-a.conflist is no JSON" in one.problem
    assert "pods start without" in one.problem
    (places.conf_dir / "20-b.conflist").write_text(LIST)
    one.install()
    assert (places.conf_dir / "10-a.conflist").read_text() == "{"
    assert chain(places.conf_dir / "20-b.conflist") == ["ptp", "nodemesh-cni"], "a runtime that skips the first takes this one"


def test_nothing_to_install_into_is_told(places: CNIPlaces) -> None:
    one = installation(places)
    one.install()
    assert "no CNI configuration" in one.problem
    gone = CNIPlaces(places.bin_dir, places.conf_dir / "missing")
    missing = installation(gone)
    missing.install()
    assert "no CNI configuration" in missing.problem


def test_another_version_s_entry_is_replaced_at_the_start_only(places: CNIPlaces) -> None:
    file = places.conf_dir / "10-a.conflist"
    file.write_text(LIST)
    installation(places, PluginEntry("/old.sock")).install(renew=True)
    new = installation(places, PluginEntry("/new.sock"))
    new.install()
    assert "/old.sock" in file.read_text(), "two agents during an upgrade must not overwrite each other for ever"
    new.install(renew=True)
    assert "/new.sock" in file.read_text()
    assert chain(file) == ["ptp", "nodemesh-cni"]
    installation(places, PluginEntry("/old.sock")).remove()
    assert chain(file) == ["ptp"]


@asynccontextmanager
async def running(one: Installation) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(one.run())
        yield
        task.cancel()


async def test_it_is_put_back_when_the_network_s_agent_rewrites_its_file(places: CNIPlaces) -> None:
    file = places.conf_dir / "10-a.conflist"
    async with running(one := installation(places)):
        await until(lambda: "no CNI configuration" in one.problem)
        for _ in range(3):
            draft = places.conf_dir / "draft.tmp"
            draft.write_text(LIST)
            draft.rename(file)
            await until(lambda: chain(file) == ["ptp", "nodemesh-cni"], deadline_s=8)
        (places.bin_dir / "nodemesh-cni").unlink()
        file.write_text(LIST)
        await until((places.bin_dir / "nodemesh-cni").exists, deadline_s=8)
        await until(lambda: chain(file) == ["ptp", "nodemesh-cni"], deadline_s=8)
    assert chain(file) == ["ptp", "nodemesh-cni"], "an agent that ends leaves it, so that no pod starts uncaptured"


async def test_a_directory_that_comes_later_is_found(places: CNIPlaces) -> None:
    places.conf_dir.rmdir()
    async with running(one := installation(places)):
        await until(lambda: bool(one.problem) and "net.d" in one.problem, deadline_s=8)
        places.conf_dir.mkdir()
        (places.conf_dir / "10-a.conf").write_text(SINGLE)
        await until(lambda: not one.problem, deadline_s=10)
