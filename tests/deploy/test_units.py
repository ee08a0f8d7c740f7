"""Units and example as files: what must be true of them wherever they are installed."""

from pathlib import Path

import pytest

from meshapi.bundle import ControllerPlace
from meshapi.vm import GroupName, VMName
from nodeagent.vm import configuration, service
from nodeagent.vm.membership import Membership

SYSTEMD = Path(__file__).parents[2] / "deploy/systemd"


def read(name: str) -> dict[str, list[str]]:
    """The settings of [Service], each with all that is assigned to it."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in (SYSTEMD / name).read_text().splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and "=" in line and not line.startswith("#"):
            setting, _, value = line.partition("=")
            found.setdefault(setting, []).append(value)
    return found


def test_the_example_is_one_that_the_agent_takes() -> None:
    groups = tuple(GroupName.parse(f"shop/{name}") for name in ("host", "web", "db"))
    node = VMName.make("machine", groups).node
    joined = Membership(node, ControllerPlace("10.0.0.1", 15011, 15012), "", "cluster.local", "Kubernetes", "istio-system")
    places = configuration.read(SYSTEMD / "agent.yaml", joined).places
    assert [(place.group.name, place.unit) for place in places] == [("host", ""), ("web", "web.service"), ("db", "db.service")]


def test_the_unit_that_joining_enables_is_there() -> None:
    assert (SYSTEMD / service.UNIT).exists()
    assert read(service.UNIT)["Slice"] == read("nodemesh-proxy@.service")["Slice"] == ["nodemesh.slice"]


@pytest.mark.parametrize(
    "name", ["nodemesh-agent.service", "nodemesh-proxy@.service", "nodemesh-controller.service", "nodemesh-ratelimit.service"]
)
def test_each_is_watched_and_gains_no_privileges(name: str) -> None:
    settings = read(name)
    assert settings["Type"] == ["notify"]
    assert settings["WatchdogSec"] == ["30s"]
    assert settings["NoNewPrivileges"] == ["yes"]
    assert settings["ProtectSystem"] == ["strict"]
    assert "SystemCallFilter" in settings


def test_what_ends_by_itself_is_not_started_again() -> None:
    """`nodeagent down` ends the agent without fault; a proxy that has drained ends, too."""
    assert read("nodemesh-agent.service")["Restart"] == ["on-failure"]
    assert read("nodemesh-proxy@.service")["Restart"] == ["no"]
