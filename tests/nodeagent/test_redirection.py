from meshapi.wire import ANNOTATION_REDIRECTION
from nodeagent.enrolment.status import EnrolmentState, WorkloadStatus
from nodeagent.redirection import Marking, markings
from nodeagent.runtime.base import LocalWorkload
from nodeagent.runtime.pods import Meta, Pod, PodStatus


def pod(uid: str, *, marked: bool, phase: str = "Running") -> Pod:
    return Pod(Meta(f"name-{uid}", "shop", uid, {}, {ANNOTATION_REDIRECTION: "enabled"} if marked else {}), status=PodStatus(phase))


def status(uid: str, state: EnrolmentState) -> WorkloadStatus:
    return WorkloadStatus(LocalWorkload(uid, uid, "shop", "default", "/x", instance=uid), state, "ebpf")


def test_who_is_captured_and_not_marked_is_to_be_marked() -> None:
    states = {"a": EnrolmentState.CAPTURED, "b": EnrolmentState.CLOSED, "c": EnrolmentState.LISTENING, "d": EnrolmentState.CAPTURED}
    pods = [pod("a", marked=False), pod("b", marked=False), pod("c", marked=False), pod("d", marked=True), pod("e", marked=False)]
    made = markings(pods, [status(uid, state) for uid, state in states.items()], wanted=())
    assert made == [Marking("shop", "name-a", "a", enabled=True), Marking("shop", "name-b", "b", enabled=True)]
    assert made[0].path == "/api/v1/namespaces/shop/pods/name-a/status"
    assert made[0].body == {"metadata": {"uid": "a", "annotations": {ANNOTATION_REDIRECTION: "enabled"}}}


def test_a_mark_goes_with_the_capture_but_not_while_an_agent_starts() -> None:
    pods = [pod("a", marked=True), pod("b", marked=True), pod("c", marked=True, phase="Succeeded")]
    made = markings(pods, [], wanted={"a"})
    assert made == [Marking("shop", "name-b", "b", enabled=False)]
    assert made[0].body == {"metadata": {"uid": "b", "annotations": {ANNOTATION_REDIRECTION: None}}}
