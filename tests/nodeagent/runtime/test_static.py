import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.capture.terms import Terms
from nodeagent.linux import cgroups
from nodeagent.linux.namespaces import key_at
from nodeagent.runtime.base import LocalWorkload
from nodeagent.runtime.static import ListError, StaticRuntime, read
from tests.nodeagent.waiting import until

ONE = "- {name: web-1, namespace: shop, service_account: web, netns: /run/netns/web-1}\n"
WEB = LocalWorkload("Kubernetes//Pod/shop/web-1", "web-1", "shop", "web", "/run/netns/web-1", terms=Terms(dns=True))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "workloads.yaml"


def test_a_list_is_read(path: Path) -> None:
    path.write_text(ONE + "- name: db\n  namespace: shop\n  netns: /proc/1/ns/net\n  uid: vm/db\n")
    assert read(path) == (WEB, LocalWorkload("vm/db", "db", "shop", "default", "/proc/1/ns/net", terms=Terms(dns=True)))
    assert read(path, cluster="east")[0].uid == "east//Pod/shop/web-1"
    path.write_text("")
    assert read(path) == ()


def test_terms_come_from_annotations_and_bad_ones_are_told_with_the_workload(path: Path) -> None:
    exclude = "traffic.sidecar.istio.io/excludeOutboundPorts"
    path.write_text(
        f"- {{name: a, namespace: b, netns: /a, cgroup: /x.slice/a/, annotations: {{{exclude}: '3306'}}}}\n"
        f"- {{name: b, namespace: b, netns: /b, annotations: {{{exclude}: all}}}}\n"
    )
    good, bad = read(path)
    assert good.terms == Terms(exclude_outbound_ports=(3306,), cgroup="x.slice/a", dns=True)
    assert not good.terms_problem
    assert bad.terms == Terms(dns=True)
    assert exclude in bad.terms_problem


def test_ports_for_probes_are_read(path: Path) -> None:
    path.write_text("- {name: a, namespace: b, netns: /a, probe_ports: [8080, 80, 80]}\n")
    [one] = read(path)
    assert one.probe_ports == (80, 8080)
    assert one.is_same(LocalWorkload("Kubernetes//Pod/b/a", "a", "b", "default", "/a")), "the same pod, whatever it declares"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- {name: a, namespace: x, netns: /n, probe_ports: [0]}", ":1: 0 is no port"),
        ("- {name: a, namespace: x, netns: /n, probe_ports: [65536]}", ":1: 65536 is no port"),
        ("- {name: a, namespace: x, netns: /n, cgroup: a/../b}", r":1: 'a/../b' is no path below"),
        ("- {name: a, namespace: x, netns: /n, annotations: {a: 1}}", r":1: .*Expected `str`"),
        ("- {name: a", r"workloads\.yaml: .*line 1"),
        (ONE + "- {name: b, namespace: shop, netns: relative}\n", r":2: 'relative' must be an absolute path"),
        (ONE + "\n\n- {name: b, namespace: shop}\n", r":4: '' must be an absolute path, or a cgroup given instead"),
        (ONE + ONE, r":2: uid Kubernetes//Pod/shop/web-1 is listed twice"),
        (ONE + "- {name: b, namespace: shop, netns: /run/netns/web-1}", r":2: /run/netns/web-1 belongs to entry 0"),
        ("- {name: a, namespace: ../x, netns: /n}", r":1: .*no path segment"),
        ('- {name: "a\\nb", namespace: x, netns: /n}', r":1: .*no path segment"),
        ('- {name: a, namespace: x, netns: /n, uid: "a b"}', r":1: 'a b' is no uid"),
        ("- {name: a, namespace: x, netns: /n, serviceAccount: b}", r":1: .*unknown field `serviceAccount`"),
        ("name: a", r"Expected `array"),
        ("[" * 200000 + "]" * 200000, r"nested too deeply"),
        ("#" * (5 << 20), r"larger than"),
        ("- *nothing", r"undefined alias"),
        ("\0", r"control characters are not allowed"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(path: Path, text: str, words: str) -> None:
    path.write_text(text)
    with pytest.raises(ListError, match=words):
        read(path)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_list_or_a_list_error(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(text)
    with suppress(ListError):
        assert isinstance(read(path), tuple)


async def following(watch: AsyncIterator[tuple[LocalWorkload, ...]]) -> tuple[LocalWorkload, ...]:
    async with asyncio.timeout(3):
        return await anext(watch)


def replace(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


async def test_edits_are_followed_and_a_bad_one_keeps_the_last_good(path: Path) -> None:
    runtime = StaticRuntime(path)
    watch = runtime.watch()
    first = asyncio.ensure_future(following(watch))
    await until(lambda: "No such file" in runtime.problem)
    replace(path, ONE)
    assert await first == (WEB,)
    assert not runtime.problem
    second = asyncio.ensure_future(following(watch))
    replace(path, "- {name: web-1")
    await until(lambda: bool(runtime.problem))
    assert not second.done()
    replace(path, "")
    assert await second == ()
    await watch.aclose()  # type: ignore[attr-defined]


async def test_a_namespace_that_appears_and_is_replaced_is_told(path: Path, tmp_path: Path) -> None:
    place = tmp_path / "netns"
    replace(path, f"- {{name: a, namespace: b, netns: {place}}}")
    watch = StaticRuntime(path).watch()
    assert [workload.network for workload in await following(watch)] == [None]
    for number in range(2):
        file = tmp_path / f"file{number}"
        file.touch()
        os.replace(file, place)  # noqa: PTH105 - a replacement in one step is the point
        assert [workload.network for workload in await following(watch)] == [key_at(str(place))]
    place.unlink()
    assert [workload.network for workload in await following(watch)] == [None]
    await watch.aclose()  # type: ignore[attr-defined]


def test_a_cgroup_without_a_namespace_is_a_process_group_of_the_nodes_own_network(tmp_path: Path) -> None:
    path = tmp_path / "workloads.yaml"
    path.write_text("- {name: web, namespace: shop, cgroup: shop.slice/web.service}\n")
    [unit] = read(path)
    assert (unit.process_group, unit.terms.cgroup) == (True, "shop.slice/web.service")
    assert unit.netns == f"{cgroups.root()}/shop.slice/web.service"
    path.write_text("- {name: web, namespace: shop, cgroup: shop.slice/web.service, netns: /run/netns/web}\n")
    [pod] = read(path)
    assert (pod.process_group, pod.netns) == (False, "/run/netns/web")


def test_the_node_itself_is_a_workload_if_the_list_says_so(tmp_path: Path) -> None:
    path = tmp_path / "workloads.yaml"
    path.write_text("- {name: vm-1, namespace: shop, host: true}\n")
    [host] = read(path)
    assert (host.whole_host, host.process_group, key_at(host.netns)) == (True, False, key_at("/proc/self/ns/net"))
    assert host.terms.open_inbound() == ((22, 22), (15020, 15021))
    path.write_text('- {name: vm-1, namespace: shop, host: true, annotations: {traffic.sidecar.istio.io/excludeInboundPorts: "2222"}}\n')
    assert read(path)[0].terms.open_inbound() == ((2222, 2222), (15020, 15021))
    path.write_text("- {name: vm-1, namespace: shop, host: true, annotations: {traffic.sidecar.istio.io/excludeInboundPort: x}}\n")
    assert read(path)[0].terms.open_inbound() == ((22, 22), (15020, 15021)), "it is reached although its annotations can't be followed"
    for other in ("netns: /run/netns/x", "cgroup: shop.slice/web.service"):
        path.write_text(f"- {{name: vm-1, namespace: shop, host: true, {other}}}\n")
        with pytest.raises(ListError, match="the whole host"):
            read(path)


def test_a_process_group_names_its_ports_and_its_addresses(tmp_path: Path) -> None:
    path = tmp_path / "workloads.yaml"
    path.write_text("- {name: web, namespace: shop, cgroup: a/web, ports: [8443, 8080], addresses: ['fd00:0::7', 10.1.2.3]}\n")
    [unit] = read(path)
    assert (unit.terms.include_inbound_ports, unit.terms.addresses) == ((8080, 8443), ("10.1.2.3", "fd00::7"))
    for entry, why in (
        ("{name: web, namespace: shop, netns: /run/netns/web, ports: [80]}", "of process groups"),
        ("{name: web, namespace: shop, host: true, ports: [80]}", "of process groups"),
        ("{name: web, namespace: shop, cgroup: a/web, ports: [0]}", "no port"),
        ("{name: web, namespace: shop, cgroup: a/web, addresses: [10.1.2.3/24]}", "addresses"),
    ):
        path.write_text(f"- {entry}\n")
        with pytest.raises(ListError, match=why):
            read(path)
