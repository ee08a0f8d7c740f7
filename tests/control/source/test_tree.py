"""What files say becomes changes of objects, and a typing error removes nothing."""

import itertools
import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.kinds import Kind, ObjectKey
from control.source import Change, FileFindings, Reject, Remove, Upsert
from control.source.tree import Absent, FileState, FileTree, Unreadable


def namespace(name: str, label: str = "x") -> str:
    return f"---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{a: {label}}}}}\n"


BROKEN = "---\na: b: c\n"
POLICY = """
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: shop}
spec: {action: DENY, rules: [{}]}
"""


def key(name: str) -> ObjectKey:
    return ObjectKey(Kind.NAMESPACE, "", name)


class Tree:
    def __init__(self) -> None:
        self.tree = FileTree("istio-system")

    def update(self, **files: FileState) -> list[Change]:
        states = {f"{name}.yaml": textwrap.dedent(state) if isinstance(state, str) else state for name, state in files.items()}
        return self.tree.update(states)


def kinds(changes: list[Change]) -> list[tuple[str, str]]:
    return [(type(change).__name__, getattr(change, "file", None) or change.key.name) for change in changes]  # type: ignore[union-attr]


def test_objects_come_change_and_go() -> None:
    tree = Tree()
    assert kinds(tree.update(a=namespace("a") + namespace("b"))) == [("Upsert", "a"), ("Upsert", "b")]
    assert tree.update(a=namespace("a") + namespace("b")) == []
    assert kinds(tree.update(a=namespace("a") + namespace("b", "y"))) == [("Upsert", "b")]
    assert tree.update(a=namespace("a")) == [Remove(key("b"))]
    assert tree.update(a=Absent()) == [Remove(key("a"))]
    assert tree.update(a=Absent()) == []


def test_an_object_that_moves_to_another_file_is_never_removed() -> None:
    tree = Tree()
    tree.update(a=namespace("a"))
    (change,) = tree.update(a=Absent(), b=namespace("a"))
    assert isinstance(change, Upsert)
    assert change.origin.file == "b.yaml"


@pytest.mark.parametrize("state", [BROKEN, Unreadable("permission denied"), "apiVersion: v1\nkind: Namespace\n", "[1]"])
def test_what_a_file_said_stays_while_it_can_not_be_read(state: FileState) -> None:
    tree = Tree()
    tree.update(a=namespace("a") + POLICY)
    changes = tree.update(a=state)
    assert [type(change) for change in changes] == [Reject, Reject, FileFindings]
    assert all(isinstance(change, Reject) and change.closed is None and change.findings for change in changes[:2])
    # Still so after another broken state, and cured by a good one.
    assert not [change for change in tree.update(a="{" if state != "{" else "[") if isinstance(change, Remove)]
    cured = tree.update(a=namespace("a"))
    assert [type(change) for change in cured] == [Remove, Upsert, FileFindings]
    assert cured[-1] == FileFindings("a.yaml")


def test_good_documents_beside_a_broken_one_are_followed() -> None:
    tree = Tree()
    tree.update(a=namespace("a") + namespace("b"))
    changes = tree.update(a=namespace("a", "new") + BROKEN)
    assert kinds(changes) == [("Upsert", "a"), ("Reject", "b"), ("FileFindings", "a.yaml")]


def test_a_deleted_file_takes_along_what_it_retained() -> None:
    tree = Tree()
    tree.update(a=namespace("a"))
    tree.update(a=BROKEN)
    assert [type(change) for change in tree.update(a=Absent())] == [Remove, FileFindings]


def test_the_same_object_twice_names_both_places() -> None:
    tree = Tree()
    first, second = namespace("n", "one"), "\n\n" + namespace("n", "two")
    tree.update(b=second)
    (change,) = tree.update(a=first)
    assert isinstance(change, Upsert)
    assert change.object.metadata.labels == {"a": "one"}
    assert [str(finding) for finding in change.findings] == [
        "b.yaml:4: error: Namespace n: stands here and in a.yaml:2, which is the one in use (remove one of the two)"
    ]
    (change,) = tree.update(a=Absent())
    assert isinstance(change, Upsert)
    assert (change.object.metadata.labels, change.findings) == ({"a": "two"}, ())


def test_twice_in_one_file_counts_too() -> None:
    (change,) = Tree().update(a=namespace("n", "one") + namespace("n", "two"))
    assert isinstance(change, Upsert)
    assert len(change.findings) == 1


def test_a_policy_that_never_was_readable_comes_closed() -> None:
    (change,) = Tree().update(a=POLICY.replace("rules: [{}]", "rules: [{}"))
    assert isinstance(change, Reject)
    assert change.closed is not None
    assert change.key == ObjectKey(Kind.AUTHORIZATION_POLICY, "shop", "p")


STATES = st.one_of(
    st.just(Absent()),
    st.just(Unreadable("x")),
    st.lists(
        st.sampled_from([namespace("a"), namespace("a", "y"), namespace("b"), POLICY, POLICY.replace("DENY", "D"), BROKEN]), max_size=3
    ).map("".join),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(["a", "b"]), STATES, min_size=1), max_size=5), STATES, STATES)
def test_history_leaves_no_trace_once_all_is_readable(history: list[dict[str, FileState]], last_a: FileState, last_b: FileState) -> None:
    def final(state: FileState) -> FileState:
        return state.replace(BROKEN, "") if isinstance(state, str) else Absent()

    def replay(updates: list[dict[str, FileState]]) -> dict[object, Change]:
        tree = Tree()
        held: dict[object, Change] = {}
        for change in itertools.chain.from_iterable(tree.update(**update) for update in updates):
            match change:
                case Remove(removed):
                    assert removed in held
                    del held[removed]
                case FileFindings(file, findings):
                    held.pop(file, None)
                    if findings:
                        held[file] = change
                case Upsert() | Reject():
                    assert held.get(change.key) != change
                    held[change.key] = change
        return held

    last: dict[str, FileState] = {"a": final(last_a), "b": final(last_b)}
    assert replay([*history, last]) == replay([last])
