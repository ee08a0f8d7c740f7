"""control/envoy/patches/called.py: clusters that patches call by Istio's names are there, and go with their patches and services."""

from pathlib import Path

import pytest

from control.envoy.built import CLUSTER, ENDPOINTS
from tests.control.envoy.patches.envoy_filters import envoy_filter, http_filter, inserted, patch
from tests.control.envoy.test_waypoint import Served, pod, service
from tests.control.envoy.validation import validate

NAME = "outbound|8081||limits.shop.svc.cluster.local"
SERVER = (service("limits", "10.96.0.7", "[{name: grpc, port: 8081}]", label="none"), pod("l", "limits", "10.0.0.7"))


def asking(cluster: str) -> str:
    grpc = {"grpc_service": {"envoy_grpc": {"cluster_name": cluster}}, "transport_api_version": "V3"}
    return envoy_filter("asks", inserted(http_filter("asks", "ratelimit.v3.RateLimit", domain="d", rate_limit_service=grpc)))


def called(served: Served) -> list[str]:
    return [name for name in served.of(CLUSTER) if name.startswith("outbound|")]


def test_a_cluster_is_there_while_a_patch_calls_it_and_the_service_exists(tmp_path: Path) -> None:
    served = Served()
    served.write("a.yaml", service("cart", "10.96.0.1"), pod("cart-1", "cart", "10.0.0.1"), *SERVER)
    assert called(served) == []
    served.write("b.yaml", asking(NAME))
    assert called(served) == [NAME]
    endpoints = "inbound-vip|8081|http|limits.shop.svc.cluster.local"
    assert served.of(CLUSTER)[NAME].eds_cluster_config.service_name == endpoints
    assert endpoints in served.of(ENDPOINTS)
    validate(tmp_path, served.view)
    served.write("a.yaml", service("cart", "10.96.0.1"), pod("cart-1", "cart", "10.0.0.1"))
    assert called(served) == []
    assert endpoints not in served.of(ENDPOINTS)
    served.write("a.yaml", service("cart", "10.96.0.1"), *SERVER)
    assert called(served) == [NAME]
    served.write("b.yaml")
    assert called(served) == []


def test_routes_of_patches_may_call_so(tmp_path: Path) -> None:
    served = Served()
    route = {"match": {"prefix": "/limits"}, "route": {"cluster": NAME}}
    served.write("a.yaml", service("cart", "10.96.0.1"), pod("cart-1", "cart", "10.0.0.1"), *SERVER)
    served.write("b.yaml", envoy_filter("routes", patch("HTTP_ROUTE", "INSERT_FIRST", route)))
    assert called(served) == [NAME]
    validate(tmp_path, served.view)


@pytest.mark.parametrize(
    "name",
    ["outbound|8081|limits.shop.svc.cluster.local", "outbound|80||limits.shop.svc.cluster.local", "outbound|8081||nowhere", "x" * 300],
)
def test_what_is_no_service_is_no_cluster(name: str) -> None:
    served = Served()
    served.write("a.yaml", service("cart", "10.96.0.1"), pod("cart-1", "cart", "10.0.0.1"), *SERVER)
    served.write("b.yaml", asking(name))
    assert called(served) == []
