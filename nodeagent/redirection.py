"""Which pods are to say that they are captured, in the annotation that Istio's tools read. A pure function of pods and enrolment."""

from collections.abc import Collection, Iterable
from typing import Final

from msgspec import Struct

from meshapi.wire import ANNOTATION_REDIRECTION
from nodeagent.enrolment.status import EnrolmentState, WorkloadStatus
from nodeagent.runtime.pods import Pod

ENABLED: Final = "enabled"
_CAPTURED: Final = frozenset({EnrolmentState.CAPTURED, EnrolmentState.CLOSED})


class Marking(Struct, frozen=True):
    """An annotation that is to be written, or taken off."""

    namespace: str
    name: str
    uid: str
    enabled: bool

    @property
    def path(self) -> str:
        """By way of the status, which lets its writer change nothing of what the pod is."""
        return f"/api/v1/namespaces/{self.namespace}/pods/{self.name}/status"

    @property
    def body(self) -> object:
        """A merge patch. With the uid, so that another pod under the same name is not marked for this one."""
        return {"metadata": {"uid": self.uid, "annotations": {ANNOTATION_REDIRECTION: ENABLED if self.enabled else None}}}


def markings(pods: Iterable[Pod], statuses: Iterable[WorkloadStatus], *, wanted: Collection[str]) -> list[Marking]:
    """What differs between the pods' annotations and what is captured now.

    A pod that is wanted (uid) keeps its mark while an agent that has just started does not know yet that it is captured.
    """
    captured = {status.workload.instance for status in statuses if status.state in _CAPTURED}
    made: list[Marking] = []
    for pod in pods:
        marked = pod.metadata.annotations.get(ANNOTATION_REDIRECTION) == ENABLED
        if pod.live and (pod.uid in captured if not marked else pod.uid not in captured and pod.uid not in wanted):
            made.append(Marking(*pod.key, pod.uid, not marked))
    return made
