"""Made-up services of a namespace, each with rules for its requests, all bound to one waypoint: a mesh of a size, as manifests."""

import json
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from demo import manifests
from demo.manifests import Manifest
from demo.topology import Pod

VERSIONS: Final = ("v1", "v2")
"""One pod and one subset of each."""
_VIPS: Final = int(IPv4Address("10.100.0.1"))
_PODS: Final = (int(IPv4Address("10.200.0.1")), int(IPv6Address("fd00:200::1")))
_MAX_ENDPOINTS: Final = 4


def routed_service(number: int, waypoint: str, node: str) -> list[Manifest]:
    """A service of two versions on a node: most goes to the first, some by its headers or path elsewhere; calls and hosts have limits."""
    name = f"routed-{number}"
    service = manifests.service(
        name,
        app=name,
        vips=(str(IPv4Address(_VIPS + number)),),
        spec={"ports": [{"name": "http", "port": 80, "targetPort": "http"}], "ipFamilyPolicy": "SingleStack"},
    )
    service["metadata"]["labels"] = {"istio.io/use-waypoint": waypoint}
    return [service, *(endpoint(number, index, node) for index in range(len(VERSIONS))), _requests(name), _calls(name)]


def endpoint(service: int, index: int, node: str, *, ready: bool = True) -> Manifest:
    """A pod of a service, where nothing runs: of its first version, its second, its first and so on."""
    name, place = f"routed-{service}", service * _MAX_ENDPOINTS + index
    pod = Pod(f"{name}-{index}", node, "", IPv4Address(_PODS[0] + place), IPv6Address(_PODS[1] + place))
    labels = {"version": VERSIONS[index % len(VERSIONS)], "istio.io/dataplane-mode": "ambient"}
    return manifests.pod(pod, service_account=name, app=name, ready=ready, labels=labels)


def changing_endpoint(node: str, *, ready: bool) -> Manifest:
    """One more, of the first service: what comes and goes."""
    return endpoint(0, len(VERSIONS), node, ready=ready)


def text(documents: Iterable[Manifest]) -> str:
    """As the text of a file of manifests."""
    return "\n---\n".join(json.dumps(one) for one in documents)


def files(count: int, waypoint: str, node: str, *, a_file: int = 100) -> Iterator[tuple[str, list[Manifest]]]:
    """So many services, by the name of a file."""
    for begin in range(0, count, a_file):
        some = range(begin, min(begin + a_file, count))
        yield f"routed-{begin}", [one for number in some for one in routed_service(number, waypoint, node)]


def _requests(name: str) -> Manifest:
    def to(version: str, weight: int = 100) -> Manifest:
        return {"destination": {"host": name, "subset": version}, "weight": weight}

    routes = [
        {"name": "testers", "match": [{"headers": {"x-tester": {"exact": "yes"}}}], "route": [to("v2")]},
        {
            "name": "api",
            "match": [{"uri": {"prefix": "/api/"}, "method": {"exact": "GET"}}],
            "route": [to("v1")],
            "timeout": "2s",
            "retries": {"attempts": 2, "perTryTimeout": "500ms", "retryOn": "5xx,connect-failure"},
        },
        {"name": "canary", "route": [to("v1", 90), to("v2", 10)]},
    ]
    return _rule("VirtualService", name, {"hosts": [name], "http": routes})


def _calls(name: str) -> Manifest:
    policy = {
        "connectionPool": {"tcp": {"maxConnections": 100}, "http": {"http2MaxRequests": 1000}},
        "outlierDetection": {"consecutive5xxErrors": 5, "interval": "10s", "baseEjectionTime": "30s"},
        "loadBalancer": {"simple": "LEAST_REQUEST"},
    }
    subsets = [{"name": version, "labels": {"version": version}} for version in VERSIONS]
    return _rule("DestinationRule", name, {"host": name, "trafficPolicy": policy, "subsets": subsets})


def _rule(kind: str, name: str, spec: Manifest) -> Manifest:
    return {"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": {"name": name, "namespace": "default"}, "spec": spec}
