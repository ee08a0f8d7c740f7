"""What the deciding parts do on one core: answers to the proxy's questions, and certificates."""

import tempfile
import time
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from control.ca.csr import check_csr
from control.ca.issuer import load_issuer
from control.ca.leaf import DEFAULT_TTL_S, sign_identity, validity
from control.ca.own_root import ensure_own_authority
from demo.bench.mesh import Say
from demo.bench.results import Figures, Result
from meshapi.authorization import Action, Exact, Match, Policy, PolicyScope
from meshapi.workload import IPAddress, NetworkAddress, Port, Service, ServiceKey, TunnelProtocol, Workload, WorkloadUID
from nodeagent.snapshot.snapshot import Snapshot
from nodeagent.snapshot.update import Update, apply
from nodeagent.ztunnel.decisions import Decisions
from nodeagent.ztunnel.protocol import AskRoute, AskVerdict, Via, decode_from_proxy, encode

WORKLOADS = 1000
SERVICES = 100
POLICIES = 20
QUESTIONS = 5000
CERTIFICATES = 2000


def measure_control(say: Say, _rounds: int) -> list[Result]:
    """Each once, over thousands."""
    say("decisions and certificates")
    decisions, certificates = decisions_per_s(), certificates_per_s()
    return [Figures({"decisions per second (agent, one core)": decisions, "certificates per second (one core)": certificates})]


def decisions_per_s() -> float:
    """Routes and verdicts, half of each, as the proxy asks them: JSON in, JSON out, every question a new one."""
    applied = apply(Snapshot(), _mesh())
    decisions = Decisions(applied.snapshot, deadline_s=5.0, max_held=2 * QUESTIONS)
    questions = [encode(question) for number in range(QUESTIONS) for question in _questions(number)]
    begin = time.perf_counter()
    answered = 0
    for body in questions:
        question = decode_from_proxy(body)
        if not isinstance(question, AskRoute | AskVerdict):
            raise TypeError(question)
        for answer in decisions.ask(question, now=0.0).answers:
            encode(answer)
            answered += 1
    took_s = time.perf_counter() - begin
    if answered != len(questions):
        raise RuntimeError(f"{len(questions)} questions, {answered} answers")
    return answered / took_s


def _mesh() -> Update:
    services = tuple(
        Service(
            f"s{number}",
            "default",
            f"s{number}.default.svc.cluster.local",
            (NetworkAddress(ip_address(f"10.96.{number // 250}.{number % 250 + 1}")),),
            (Port(80, 8080),),
        )
        for number in range(SERVICES)
    )
    workloads = tuple(
        Workload(
            uid=WorkloadUID(f"Kubernetes//Pod/default/w{number}"),
            name=f"w{number}",
            namespace="default",
            service_account=f"a{number}",
            addresses=(_address(number),),
            tunnel_protocol=TunnelProtocol.HBONE,
            services={ServiceKey(f"default/s{number % SERVICES}.default.svc.cluster.local"): (Port(80, 8080),)},
        )
        for number in range(WORKLOADS)
    )
    policies = tuple(
        Policy(
            f"p{number}",
            "default",
            PolicyScope.NAMESPACE,
            Action.ALLOW,
            rules=((((Match(principals=(Exact(f"cluster.local/ns/default/sa/a{number}"),)),)),),),
        )
        for number in range(POLICIES)
    )
    return Update(workloads=workloads, services=services, policies=policies, policies_arrived=True)


def _address(number: int) -> IPAddress:
    return ip_address(f"10.{number // 62500 + 1}.{number // 250 % 250}.{number % 250 + 1}")


def _questions(number: int) -> tuple[AskRoute, AskVerdict]:
    source, destination = number % WORKLOADS, (number * 7 + 1) % WORKLOADS
    service = number % SERVICES
    vip = f"10.96.{service // 250}.{service % 250 + 1}:80"
    route = AskRoute(2 * number, f"Kubernetes//Pod/default/w{source}", vip)
    peer = f"spiffe://cluster.local/ns/default/sa/a{source}"
    target = f"{_address(destination)}:8080"
    verdict = AskVerdict(2 * number + 1, f"Kubernetes//Pod/default/w{destination}", target, Via.HBONE, str(_address(source)), peer)
    return route, verdict


def certificates_per_s() -> float:
    """CSR to certificate: the request checked, signed, read back and checked again."""
    identity = "spiffe://cluster.local/ns/default/sa/bench"
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(names, critical=True)
    csr = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
    with tempfile.TemporaryDirectory() as directory:
        now_s = time.time()
        ensure_own_authority(Path(directory), "cluster.local", now_s)
        issuer = load_issuer(Path(directory), now_s)
        begin = time.perf_counter()
        for _ in range(CERTIFICATES):
            when = validity(asked_s=DEFAULT_TTL_S, max_ttl_s=DEFAULT_TTL_S, revoked_before_s=0, issuer=issuer, now_s=now_s)
            sign_identity(issuer, check_csr(csr, identity), identity, when)
        return CERTIFICATES / (time.perf_counter() - begin)
