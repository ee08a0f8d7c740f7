"""Binds services to waypoints by their label."""

import msgspec
import pytest

from control.kinds import Service
from control.model import derivation
from control.model.settings import MeshSettings
from meshapi import workload
from meshapi.workload import GatewayAddress, service_key


@pytest.fixture(autouse=True)
def _bound(monkeypatch: pytest.MonkeyPatch) -> None:
    real = derivation.kubernetes_service

    def bound(service: Service, settings: MeshSettings) -> workload.Service:
        made = real(service, settings)
        name = service.metadata.labels.get("istio.io/use-waypoint")
        if not name:
            return made
        key = service_key(made.namespace, settings.hostname(name, made.namespace))
        return msgspec.structs.replace(made, waypoint=GatewayAddress(service=key))

    monkeypatch.setattr(derivation, "kubernetes_service", bound)
