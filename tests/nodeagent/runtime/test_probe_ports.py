"""The ports that the kubelet calls, read from what a pod declares."""

import msgspec
import pytest

from nodeagent.runtime.pods import Pod
from nodeagent.runtime.probe_ports import probe_ports

PORTS = [{"containerPort": 8080, "name": "http"}, {"containerPort": 9090}]


@pytest.mark.parametrize(
    ("container", "ports"),
    [
        ({}, ()),
        ({"livenessProbe": {"httpGet": {"path": "/", "port": 80}}}, (80,)),
        ({"readinessProbe": {"tcpSocket": {"port": 5432}}, "startupProbe": {"grpc": {"port": 50051, "service": "x"}}}, (5432, 50051)),
        ({"livenessProbe": {"httpGet": {"port": "http"}}, "ports": PORTS}, (8080,)),
        ({"livenessProbe": {"httpGet": {"port": "none"}}, "ports": PORTS}, ()),
        ({"livenessProbe": {"httpGet": {"port": "9091"}}, "ports": PORTS}, (9091,)),
        ({"livenessProbe": {"exec": {"command": ["true"]}}}, ()),
        ({"livenessProbe": {"httpGet": {"port": 80, "host": "10.0.0.9"}}}, ()),
        ({"lifecycle": {"postStart": {"httpGet": {"port": 81}}, "preStop": {"sleep": {"seconds": 1}}}}, (81,)),
        ({"livenessProbe": {"httpGet": {"port": 0}}, "readinessProbe": {"httpGet": {"port": "99999"}}}, ()),
    ],
)
def test_a_containers_ports(container: dict[str, object], ports: tuple[int, ...]) -> None:
    assert declared({"containers": [container]}) == ports


def test_of_all_containers_each_once() -> None:
    probe = {"livenessProbe": {"httpGet": {"port": 80}}}
    spec = {
        "containers": [probe, {"livenessProbe": {"httpGet": {"port": 81}}}],
        "initContainers": [probe, {"startupProbe": {"grpc": {"port": 7}}}],
    }
    assert declared(spec) == (7, 80, 81)


def declared(spec: dict[str, object]) -> tuple[int, ...]:
    pod = msgspec.convert({"metadata": {"name": "web"}, "spec": spec}, Pod)
    return probe_ports((*pod.spec.containers, *pod.spec.init_containers))
