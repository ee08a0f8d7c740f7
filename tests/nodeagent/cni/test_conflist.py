import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.cni.conflist import ConflistError, PluginEntry, candidates, converts_to, has_plugin, with_plugin, without_plugin

GOLDEN = Path(__file__).parent / "golden"
ENTRY = PluginEntry("/run/nodemesh/cni.sock", ("kube-system",), deadline_s=25)
LISTS = ("calico.conflist", "former.conflist")


@pytest.mark.parametrize("name", [*LISTS, "bridge.conf"])
def test_the_plugin_is_put_at_the_end_of_the_chain(name: str) -> None:
    made = with_plugin(name, (GOLDEN / name).read_bytes(), ENTRY)
    assert made.decode() == (GOLDEN / f"{name}.golden").read_text()


@pytest.mark.parametrize("name", LISTS)
def test_it_is_taken_out_exactly(name: str) -> None:
    before = json.loads((GOLDEN / name).read_bytes())
    before["plugins"] = [plugin for plugin in before["plugins"] if plugin["type"] != "nodemesh-cni"]
    made = with_plugin(name, (GOLDEN / name).read_bytes(), ENTRY)
    assert has_plugin(name, made)
    assert json.loads(without_plugin(made)) == before
    assert not has_plugin(name, without_plugin(made))
    assert with_plugin(name, made, ENTRY) == made


def test_a_single_plugin_may_take_its_place_again_while_nobody_changed_the_list() -> None:
    single = (GOLDEN / "bridge.conf").read_bytes()
    made = with_plugin("bridge.conf", single, ENTRY)
    assert converts_to(single, made)
    assert converts_to(single, without_plugin(made))
    changed = json.loads(made)
    changed["plugins"][0]["mtu"] = 9000
    assert not converts_to(single, json.dumps(changed).encode())
    assert not converts_to(b"?", made)


def test_files_are_looked_at_as_runtimes_do() -> None:
    names = ["20-b.conf", "10-a.conflist", "05-x.json", "readme", ".01-hidden.conf", "10-a.conflist.bak", "00-y.conf.nodemesh-aside"]
    assert candidates(names) == ["05-x.json", "10-a.conflist", "20-b.conf"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.conflist", "", "is no JSON"),
        ("a.conflist", "{", "is no JSON"),
        ("a.conflist", "[]", "is no JSON object"),
        ("a.conflist", '{"name": "a", "cniVersion": "1.0.0", "plugins": [NaN]}', "NaN is no number"),
        ("a.conflist", "[" * 100_000, "is no JSON"),
        ("a.conflist", " " * (1 << 21), "is larger than"),
        ("a.conflist", '{"cniVersion": "1.0.0", "plugins": [{"type": "b"}]}', "no `name`"),
        ("a.conflist", '{"name": "a", "cniVersion": "1.0.0"}', "`plugins`"),
        ("a.conflist", '{"name": "a", "cniVersion": "1.0.0", "plugins": [1]}', "`plugins`"),
        ("a.conflist", '{"name": "a", "cniVersion": "1.0.0", "plugins": []}', "no plugin that makes a network"),
        ("a.conflist", '{"name": "a", "cniVersion": "1.0.0", "plugins": [{"type": "nodemesh-cni"}]}', "no plugin that makes a network"),
        ("a.conflist", '{"name": "a", "cniVersion": "0.2.0", "plugins": [{"type": "b"}]}', "knows no chained plugins"),
        ("a.conflist", '{"name": "a", "plugins": [{"type": "b"}]}', "knows no chained plugins"),
        ("a.conflist", '{"name": "a", "cniVersion": "9.0.0", "plugins": [{"type": "b"}]}', "'9.0.0' is none of"),
        ("a.conflist", '{"name": "a", "cniVersion": ["1"], "plugins": [{"type": "b"}]}', "is none of"),
        ("a.conf", '{"name": "a", "cniVersion": "1.0.0", "plugins": [{"type": "b"}]}', "is it a list?"),
        ("a.conf", '{"cniVersion": "1.0.0", "type": "b"}', "no `name`"),
    ],
)
def test_what_no_runtime_takes_is_named(name: str, text: str, words: str) -> None:
    with pytest.raises(ConflistError, match=words):
        with_plugin(name, text.encode(), ENTRY)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
)
plugins = st.lists(
    st.dictionaries(st.text(max_size=5), json_values, max_size=3).map(lambda plugin: plugin | {"type": "x"}), min_size=1, max_size=3
)


@settings(max_examples=30)
@given(st.dictionaries(st.text(max_size=5), json_values, max_size=3), plugins)
def test_what_others_wrote_is_kept_whatever_it_is(extra: dict[str, object], listed: list[dict[str, object]]) -> None:
    before = extra | {"name": "n", "cniVersion": "1.0.0", "plugins": listed}
    made = with_plugin("a.conflist", json.dumps(before).encode(), ENTRY)
    assert json.loads(made)["plugins"][:-1] == listed
    assert json.loads(without_plugin(made)) == before


@given(st.binary(max_size=200))
def test_any_bytes_are_a_configuration_or_an_error(text: bytes) -> None:
    for name in ("a.conf", "a.conflist"):
        with pytest.raises(ConflistError):
            with_plugin(name, text, ENTRY)
