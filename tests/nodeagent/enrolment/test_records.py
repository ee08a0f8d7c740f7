from pathlib import Path

from nodeagent.enrolment.records import Record, load, save
from nodeagent.linux.namespaces import NamespaceKey
from nodeagent.runtime.base import LocalWorkload
from nodeagent.state.files import StateDirectory

RECORDS = (
    Record(LocalWorkload("a", "a", "shop", "default", "/run/netns/a", NamespaceKey(4, 11))),
    Record(LocalWorkload("b", "b", "shop", "web", "/run/netns/b", NamespaceKey(4, 12)), leaving=True),
)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    store = StateDirectory(tmp_path)
    assert load(store) == ()
    save(store, RECORDS)
    assert load(store) == RECORDS


def test_what_can_not_be_read_is_set_aside(tmp_path: Path) -> None:
    store = StateDirectory(tmp_path)
    store.write("enrolled", b'[{"workload": 1}]')
    assert load(store) == ()
    assert load(store) == ()
    save(store, RECORDS)
    assert load(store) == RECORDS
