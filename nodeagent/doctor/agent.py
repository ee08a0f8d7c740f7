"""A running agent, from what it says of itself."""

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from nodeagent.admin.reports import CertificateReport, CertificatesReport, StatusReport
from nodeagent.cli.words import ago, duration, plural, until
from nodeagent.doctor.check import Check, failed, ok, warning

_SOON_S: Final = 3600.0
_ROOT_SOON_S: Final = 30 * 86400.0
_FULL: Final = 0.9


def agent_checks(status: StatusReport, certificates: CertificatesReport, run_dir: Path, state_dir: Path | None) -> Iterator[Check]:
    """Of an agent that answers; `state_dir` None where it is not known."""
    yield controller(status)
    yield configuration(status)
    yield proxy(status)
    if status.proxy.pid is not None:
        yield descriptors("proxy's files", status.proxy.pid)
    yield names(status)
    yield from leaves(certificates)
    yield from roots(certificates)
    for name, directory in (("run directory", run_dir), ("state directory", state_dir)):
        if directory is not None:
            yield private(name, directory)
    for problem in status.problems:
        yield failed("agent", problem.what, problem.hint)


def controller(status: StatusReport) -> Check:
    report = status.controller
    if report.connected:
        return ok("controller", f"connected to {report.target}, last word from it {ago(report.last_response_s, status.now_s)}")
    what = f"not connected to {report.target or 'anything yet'}: {report.error or 'not tried yet'}"
    return failed("controller", what, "what is known stays in force; look at the way there, its certificate, and this node's clock")


def configuration(status: StatusReport) -> Check:
    known = status.configuration
    counts = f"{plural(known.workloads, 'workload')}, {plural(known.services, 'service')}, {plural(known.policies, 'policy')}"
    if not known.current:
        return warning("configuration", f"{counts}, kept from before, not confirmed yet", "it is confirmed when the controller answers")
    if known.rejected:
        names = ", ".join(sorted(known.rejected)[:3])
        return warning("configuration", f"{plural(len(known.rejected), 'resource')} not understood: {names}", "correct them")
    return ok("configuration", f"{counts}, confirmed by the controller")


def proxy(status: StatusReport) -> Check:
    report = status.proxy
    if report.pid is None or not report.connected:
        return failed("proxy", report.problem or "does not run, or is not connected", "see `nodeagent status`, and the agent's log")
    if report.shed:
        shed = ", ".join(f"{count} {why}" for why, count in sorted(report.shed.items()))
        return warning("proxy", f"process {report.pid} turned connections away: {shed}", "give it more files or memory")
    return ok("proxy", f"process {report.pid}, connected for {duration(status.now_s - (report.since_s or status.now_s))}")


def names(status: StatusReport) -> Check:
    """Whose questions to DNS are answered; what stands behind a semicolon is wrong."""
    served, _, problems = status.dns.partition("; ")
    if problems:
        return warning("DNS", problems, "these workloads ask their own resolvers, or get no answer: see the agent's log")
    return ok("DNS", served or "not in use")


def descriptors(subject: str, pid: int, proc: Path = Path("/proc")) -> Check:
    """How many descriptors a process has, of those that it may have."""
    try:
        used = sum(1 for _ in (proc / str(pid) / "fd").iterdir())
        line = next(line for line in (proc / str(pid) / "limits").read_text().splitlines() if line.startswith("Max open files"))
        limit = int(line.split()[3])
    except (OSError, StopIteration, ValueError):
        return warning(subject, f"process {pid} can't be looked into", "run it as root, on the agent's node")
    if used >= _FULL * limit:
        return warning(subject, f"{used} of {limit} are open", "raise LimitNOFILE: connections are turned away when there are no more")
    return ok(subject, f"{used} of {limit} are open")


def leaves(report: CertificatesReport) -> Iterator[Check]:
    """The workloads' certificates, those that are well in one line."""
    bad = [one for one in report.certificates if _is_bad(one, report.now_s)]
    for one in bad:
        what = f"{one.identity}: {one.state}, expires {until(one.expires_s, report.now_s)}" + (f" ({one.error})" if one.error else "")
        yield failed("certificate", what, "is there a live workload with this account here? the controller's audit log says why not")
    good = [one.expires_s for one in report.certificates if one not in bad and one.expires_s is not None]
    if good:
        count = plural(len(good), "certificate")
        yield ok("certificates", f"{count} of workloads, the first to be renewed expires {until(min(good), report.now_s)}")


def _is_bad(one: CertificateReport, now_s: float) -> bool:
    return one.expires_s is None or (one.expires_s - now_s < _SOON_S and one.failures > 0) or one.expires_s <= now_s


def roots(report: CertificatesReport) -> Iterator[Check]:
    if not report.roots:
        yield failed("roots", "none is trusted: no tunnel can be made", "they come from the controller, when it is connected")
    for root in report.roots:
        left = f"{root.fingerprint[:16]} of {root.trust_domain} expires {until(root.expires_s, report.now_s)}"
        if root.expires_s - report.now_s < _ROOT_SOON_S:
            yield warning("roots", left, "roll it over in time: meshctl root rotate")
        else:
            yield ok("roots", left)


def private(subject: str, directory: Path) -> Check:
    """Whether a directory is its owner's alone."""
    try:
        mode = stat.S_IMODE(directory.stat().st_mode)
    except OSError as error:
        return failed(subject, str(error), "the agent makes it when it starts")
    if mode & 0o077:
        return failed(subject, f"{directory} is open to others (mode {mode:o})", f"chmod 700 {directory}")
    return ok(subject, f"{directory} is its owner's alone")
