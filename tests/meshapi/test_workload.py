"""Waypoints survive the wire."""

from ipaddress import ip_address

import pytest

from meshapi.decoding import ModelError
from meshapi.proto import workload_pb2 as pb
from meshapi.workload import (
    GatewayAddress,
    NetworkAddress,
    Service,
    ServiceKey,
    WeightedWaypoint,
    Workload,
    WorkloadUID,
    decode_address,
    encode_service,
    encode_workload,
)

BY_NAME = GatewayAddress(service=ServiceKey("infra/waypoint.infra.svc.cluster.local"))
BY_ADDRESS = GatewayAddress(address=NetworkAddress(ip_address("fd00::5"), "net"), hbone_port=15009)


@pytest.mark.parametrize("gateway", [BY_NAME, BY_ADDRESS])
def test_a_waypoint_is_read_as_it_was_written(gateway: GatewayAddress) -> None:
    workload = Workload(WorkloadUID("u"), "u", "shop", waypoint=gateway)
    assert decode_address(encode_workload(workload)) == workload
    service = Service("api", "shop", "api.shop", waypoint=gateway, weighted_waypoints=(WeightedWaypoint(gateway, 3),))
    assert decode_address(encode_service(service)) == service
    assert service.waypoints == (WeightedWaypoint(gateway, 3),)


def test_a_waypoint_without_a_place_is_refused() -> None:
    """Were it left out, callers would go past it."""
    for service in (
        pb.Service(namespace="shop", hostname="api", waypoint=pb.GatewayAddress(hbone_mtls_port=15008)),
        pb.Service(namespace="shop", hostname="api", weighted_waypoints=[pb.WeightedWaypoint(weight=1)]),
    ):
        with pytest.raises(ModelError, match="without destination"):
            decode_address(pb.Address(service=service).SerializeToString())


def test_a_service_without_waypoint_has_none() -> None:
    assert Service("api", "shop", "api.shop").waypoints == ()
