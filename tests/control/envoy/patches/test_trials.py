"""control/envoy/patches/trials.py: which form of an object is in force, as Envoys take and refuse resources."""

from collections.abc import Mapping

import msgspec

from control.envoy.patches.closed import closed
from control.envoy.patches.reading import read_patch
from control.envoy.patches.trials import Trial, Trials
from control.envoy.proxies import ProxyKey
from control.kinds import EnvoyFilter, ObjectKey
from control.kinds.envoy_filter import ApplyTo
from control.source import Synced
from control.validation.document import read_documents
from tests.control.envoy.patches.envoy_filters import envoy_filter, http_filter, inserted, lua, patch, typed
from tests.control.model.builders import Config

PLACE = (ProxyKey("shop", "waypoint"), "Listener", "main_internal")
ROUTES = (ProxyKey("shop", "waypoint"), "RouteConfiguration", "cart")


def form(code: str, name: str = "one") -> EnvoyFilter:
    (document,) = read_documents(envoy_filter(name, inserted(lua(code))), "f.yaml", "istio-system")
    assert isinstance(document.object, EnvoyFilter)
    return document.object


GOOD, BAD, WORSE = form("x = 1"), form("x ="), form("=")
KEY = GOOD.key
OTHER = form("y =", "two")


def trials(*forms: EnvoyFilter, running: bool = True) -> Trials:
    found = Trials()
    for one in forms:
        found.follow(one.key, one, running=running)
    return found


def of(found: Trials, *keys: ObjectKey) -> Mapping[ObjectKey, Trial]:
    """What shapes a resource now."""
    return found.forms(keys)


def test_a_new_object_that_is_refused_has_no_effect() -> None:
    found = trials(BAD)
    assert found.stand_ins == {}
    assert found.refuse(PLACE, of(found, KEY), "no Lua")
    assert found.stand_ins == {KEY: None}
    assert "has no effect: Envoy says no Lua" in found.refused[KEY]
    assert not found.refuse(PLACE, of(found, KEY), "again"), "it is out already"


def test_the_former_form_holds_until_one_is_taken() -> None:
    found = trials(GOOD)
    assert not found.took(PLACE, of(found, KEY))
    for bad in (BAD, WORSE):
        found.follow(KEY, bad, running=True)
        assert found.stand_ins == {}
        assert found.refuse(PLACE, of(found, KEY), "no Lua")
        assert found.stand_ins == {KEY: GOOD}
        assert "former form holds" in found.refused[KEY]
    found.follow(KEY, GOOD, running=True)
    assert found.stand_ins == {}
    assert found.refused == {}


def test_a_form_that_is_taken_while_it_becomes_another_is_a_former_form() -> None:
    found = trials(GOOD)
    first = of(found, KEY)
    found.follow(KEY, BAD, running=True)
    second = of(found, KEY)
    assert not found.took(PLACE, first), "its answer comes late"
    assert found.refuse(PLACE, second, "no Lua")
    assert found.stand_ins == {KEY: GOOD}
    late = trials(GOOD)
    first = of(late, KEY)
    late.follow(KEY, BAD, running=True)
    late.refuse(PLACE, of(late, KEY), "no Lua")
    assert late.stand_ins == {KEY: None}
    assert late.took(PLACE, first), "of another Envoy, later still"
    assert late.stand_ins == {KEY: GOOD}


def test_what_was_there_at_the_start_denies() -> None:
    """Nobody knows any more what was in force before it."""
    found = trials(BAD, running=False)
    found.refuse(PLACE, of(found, KEY), "no Lua")
    assert found.stand_ins == {KEY: closed(BAD)}
    assert "requests are denied" in found.refused[KEY]
    (decides,) = closed(BAD).spec.config_patches
    assert decides.patch.value["name"] == "closed"
    (document,) = read_documents(
        envoy_filter("b", inserted(http_filter("b", "buffer.v3.Buffer", max_request_bytes=1))), "f.yaml", "istio-system"
    )
    assert closed(document.object) is None, "what decides about nothing is missed by nobody"


def test_what_was_taken_is_not_doubted() -> None:
    """A policy that Envoy refuses later, beside it, is not its fault; another resource of the same form may be."""
    found = trials(GOOD)
    found.took(PLACE, of(found, KEY))
    assert not found.refuse(PLACE, of(found, KEY), "another's")
    assert found.refuse(ROUTES, of(found, KEY), "no such route")
    assert found.stand_ins == {KEY: None}


def test_of_several_the_innocent_come_back() -> None:
    found = trials(BAD, OTHER)
    assert found.refuse(PLACE, of(found, KEY, OTHER.key), "no Lua")
    (first,) = found.stand_ins
    last = KEY if first == OTHER.key else OTHER.key
    assert found.refuse(PLACE, of(found, last), "no Lua")
    assert found.took(PLACE, of(found)), "the last that was doubted was the cause: the first is tried again"
    assert found.stand_ins.keys() == {last}
    assert not found.took(PLACE, of(found, first))
    assert found.stand_ins.keys() == {last}
    assert not found.refuse(PLACE, of(found, first), "no Lua"), "it was taken here"


def test_what_is_guilty_as_well_goes_again_and_stays_out() -> None:
    found = trials(BAD, OTHER)
    found.refuse(PLACE, of(found, KEY, OTHER.key), "no Lua")
    (first,) = found.stand_ins
    last = KEY if first == OTHER.key else OTHER.key
    found.refuse(PLACE, of(found, last), "no Lua")
    found.took(PLACE, of(found))
    assert found.refuse(PLACE, of(found, first), "no Lua")
    assert not found.took(PLACE, of(found))
    assert found.stand_ins.keys() == {first, last}


def test_one_team_s_envoy_does_not_take_out_what_is_for_all() -> None:
    """Whoever runs a waypoint answers what he likes."""
    for_all = msgspec.structs.replace(BAD, metadata=msgspec.structs.replace(BAD.metadata, namespace="istio-system"))
    places = {team: (ProxyKey(team, "waypoint"), "Listener", "main_internal") for team in ("shop", "pay", "stock")}
    found = trials(for_all)
    for _ in range(2):
        assert not found.refuse(places["shop"], of(found, for_all.key), "no Lua", 3)
    assert found.stand_ins == {}
    assert found.refuse(places["pay"], of(found, for_all.key), "no Lua", 3), (
        "of two that have nothing to do with each other, it is the form"
    )
    assert found.stand_ins == {for_all.key: None}
    taken = trials(for_all)
    taken.took(places["stock"], of(taken, for_all.key))
    assert not any(taken.refuse(places[team], of(taken, for_all.key), "no", 3) for team in ("shop", "pay"))
    alone = trials(for_all)
    assert alone.refuse(places["shop"], of(alone, for_all.key), "no Lua", 1)


def test_an_object_that_goes_leaves_nothing() -> None:
    found = trials(BAD)
    found.refuse(PLACE, of(found, KEY), "no Lua")
    found.follow(KEY, None, running=True)
    assert found.stand_ins == {}
    assert not found.refuse(PLACE, of(found, KEY), "no Lua")
    assert not found.took(PLACE, of(found, KEY, ObjectKey(KEY.kind, "shop", "never")))


def test_what_comes_unreadable_while_the_controller_runs_has_no_effect() -> None:
    config = Config()
    config.mesh.apply([Synced()])
    broken = envoy_filter("one", inserted(lua("")), patch("HTTP_ROUTE", "MERGE", {"nothing": 1}))
    for text in (broken, broken.replace("nothing", "another")):
        config.write("f.yaml", text)
        assert config.mesh.store.get(KEY) is None
    config.write("f.yaml", envoy_filter("one", inserted(lua("x = 1"))))
    config.write("f.yaml", broken)
    assert config.mesh.store.get(KEY) == GOOD, "what was in force before stays"
    start = Config(broken)
    assert start.mesh.store.get(KEY) is not None, "a form that denies"


def test_what_can_not_be_read_at_the_start_denies_and_what_is_new_does_not() -> None:
    unreadable = envoy_filter("one", inserted(lua("")), patch("HTTP_ROUTE", "MERGE", {"nothing": 1}), services=("cart",))
    (document,) = read_documents(unreadable, "f.yaml", "istio-system")
    assert document.object is None
    assert isinstance(document.closed, EnvoyFilter)
    assert [one.name for one in document.closed.targets] == ["cart"]
    asks = {"name": "e", "typed_config": typed("filters.network.ext_authz.v3.ExtAuthz", nothing=1)}
    of_connections = read_documents(envoy_filter("one", patch("NETWORK_FILTER", "INSERT_FIRST", asks)), "f.yaml", "istio-system")[0].closed
    assert isinstance(of_connections, EnvoyFilter)
    assert [read_patch(one).apply_to for one in of_connections.spec.config_patches] == [ApplyTo.NETWORK_FILTER]
    harmless = envoy_filter("one", patch("HTTP_ROUTE", "MERGE", {"nothing": 1}))
    assert read_documents(harmless, "f.yaml", "istio-system")[0].closed is None
