"""Which workloads are gateways because Istio's Gateways choose them, where no Gateway of the Gateway API is called like their account."""

from collections.abc import Mapping

from control.kinds import IstioGateway, Kind, MeshObject, ObjectKey
from control.model.labels import ANYWHERE, LabelIndex, SelectorIndex, workload_labels
from control.model.settings import MeshSettings
from control.model.waypoint_store import account_of
from meshapi import wire


class EdgeStore:
    """`put` follows each object that was replaced in `objects`; `workloads` indexes the objects with workloads by label."""

    def __init__(self, settings: MeshSettings, objects: Mapping[ObjectKey, MeshObject], workloads: LabelIndex) -> None:
        self._settings = settings
        self._objects = objects
        self._workloads = workloads
        self._gateways = SelectorIndex()

    def put(self, key: ObjectKey, new: MeshObject | None) -> None:
        if key.kind is not Kind.ISTIO_GATEWAY:
            return
        where = key.namespace if self._settings.scope_gateways else ANYWHERE
        # One without a selector is for whatever gateway there is, and makes none.
        self._gateways.put(key, where, new.spec.selector if isinstance(new, IstioGateway) else None)

    def run_as(self, namespace: str, service_account: str) -> bool:
        """Whether live workloads of an account are a gateway: chosen, and saying themselves that no agent captures them."""
        uncaptured = self._workloads.select(namespace, {wire.LABEL_DATAPLANE_MODE: "none"})
        own = (item for key in uncaptured if account_of(item := self._objects.get(key)) == service_account and item is not None)
        return any(self._gateways.matching(namespace, workload_labels(item)) for item in own)
