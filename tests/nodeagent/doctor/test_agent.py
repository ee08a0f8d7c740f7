"""nodeagent/doctor/agent.py: each thing that can be wrong with a running agent is said, with what to do."""

import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from nodeagent.admin.reports import (
    CertificateReport,
    CertificatesReport,
    ConfigurationReport,
    ControllerReport,
    Problem,
    ProxyReport,
    RootReport,
    StatusReport,
)
from nodeagent.doctor.agent import agent_checks, descriptors, private
from nodeagent.doctor.check import Outcome

NOW_S = 1_000_000.0
WELL = StatusReport(
    node="n1",
    trust_domain="cluster.local",
    version="1",
    ready=True,
    now_s=NOW_S,
    started_s=NOW_S - 60,
    controller=ControllerReport("c:15017", connected=True, since_s=NOW_S - 50, last_response_s=NOW_S - 5),
    configuration=ConfigurationReport(current=True, workloads=2),
    proxy=ProxyReport(pid=os.getpid(), connected=True, since_s=NOW_S - 40),
    capture="ebpf",
    capture_reason="the best way",
    dns="2 workloads served, 3 names of the mesh",
)
GOOD = CertificateReport("spiffe://cluster.local/ns/a/sa/b", "valid", NOW_S + 80_000)
ROOT = RootReport("cluster.local", "ab" * 32, NOW_S + 1e8)
CERTIFICATES = CertificatesReport(NOW_S, (GOOD,), (ROOT,))


def bad(tmp_path: Path, status: StatusReport = WELL, certificates: CertificatesReport = CERTIFICATES) -> dict[str, str]:
    """What is not well, by subject."""
    tmp_path.chmod(0o700)
    return {one.subject: one.what for one in agent_checks(status, certificates, tmp_path, tmp_path) if one.outcome is not Outcome.OK}


def test_an_agent_that_is_well(tmp_path: Path) -> None:
    assert bad(tmp_path) == {}


@pytest.mark.parametrize(
    ("change", "subject", "what"),
    [
        ({"controller": ControllerReport("c:15017", error="refused")}, "controller", "refused"),
        ({"configuration": ConfigurationReport(current=False)}, "configuration", "not confirmed"),
        ({"configuration": ConfigurationReport(current=True, rejected={"a/b": "why"})}, "configuration", "a/b"),
        ({"dns": "1 workloads served, 3 names of the mesh; questions are not answered: no right"}, "DNS", "no right"),
        ({"proxy": ProxyReport(problem="it ends at once")}, "proxy", "it ends at once"),
        ({"proxy": replace(WELL.proxy, shed={"connections": 3})}, "proxy", "3 connections"),
        ({"problems": (Problem("the clock is off", "set it"),)}, "agent", "the clock is off"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, change: dict[str, object], subject: str, what: str) -> None:
    found = bad(tmp_path, replace(WELL, **change))
    assert set(found) == {subject}
    assert what in found[subject]


@pytest.mark.parametrize(
    ("certificates", "subject"),
    [
        (replace(CERTIFICATES, certificates=(replace(GOOD, expires_s=NOW_S - 1),)), "certificate"),
        (replace(CERTIFICATES, certificates=(replace(GOOD, expires_s=None, state="waiting", error="denied"),)), "certificate"),
        (replace(CERTIFICATES, certificates=(replace(GOOD, expires_s=NOW_S + 600, failures=2),)), "certificate"),
        (replace(CERTIFICATES, roots=()), "roots"),
        (replace(CERTIFICATES, roots=(replace(ROOT, expires_s=NOW_S + 86400),)), "roots"),
    ],
)
def test_certificates(tmp_path: Path, certificates: CertificatesReport, subject: str) -> None:
    assert set(bad(tmp_path, WELL, certificates)) == {subject}


def test_directories_that_others_can_read(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    assert private("run directory", tmp_path).outcome is Outcome.FAILED
    assert private("run directory", tmp_path / "none").outcome is Outcome.FAILED


def test_descriptors_that_run_out(tmp_path: Path) -> None:
    files = tmp_path / "7/fd"
    files.mkdir(parents=True)
    (tmp_path / "7/limits").write_text("Limit Soft Hard Units\nMax open files            10                   20                   files\n")
    for number in range(8):
        (files / str(number)).touch()
    assert descriptors("files", 7, tmp_path).what == "8 of 10 are open"
    (files / "8").touch()
    assert descriptors("files", 7, tmp_path).outcome is Outcome.WARNING
    assert descriptors("files", 8, tmp_path).outcome is Outcome.WARNING
