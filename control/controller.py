"""The controller as one object: puts the parts together, opens the listeners when the model is whole, and takes them down in order."""

import asyncio
import fcntl
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from aiohttp import web

from control.admin.server import AdminParts, JoiningInfo, Objects, make_app, open_admin_socket
from control.ca.audit import AuditLog
from control.ca.authority import Authority
from control.ca.callers import AnyTokenAuthenticator, Authenticator, CertificateAuthenticator, TokenAuthenticator
from control.ca.former_roots import FormerRoots
from control.ca.issuance import Issuance, IssuanceParts
from control.ca.join_tokens import JoinTokens
from control.ca.leaf import DEFAULT_TTL_S
from control.ca.limits import CallerLimits, Limits
from control.ca.private_files import make_private_directory
from control.ca.revocations import Revocations
from control.ca.root_files import RootDirectory, RootStore
from control.ca.server_certificate import DEFAULT_HOSTNAMES, ServerCertificate
from control.ca.service import certificate_handler
from control.ca.service_accounts import Accounts, ServiceAccountAuthenticator
from control.ca.shared import Shared
from control.ca.token_records import TokenFile
from control.listeners import MAX_AGENT_REQUEST_BYTES, MAX_STRANGER_REQUEST_BYTES, ServerTLS, make_listener
from control.metrics import CONTENT_TYPE, Metrics
from control.resources import Placement, ResourceView, TypeURL
from control.vm.machines import Machines
from control.vm.service import MachineService
from control.vm.service import Parts as MachineParts
from control.xds.guard import Proofs, StreamGuard
from control.xds.hub import Hub
from control.xds.proxies import Proxies
from control.xds.service import STREAM_LIMITS, Access, DiscoveryService
from control.xds.trust import TrustView
from control.xds.workload_names import WORKLOAD, WorkloadNames
from meshapi import wire

SIGNING_THREADS = 2
STOP_GRACE_S = 2.0
TLS_PERIOD_S = 30.0
REVOCATIONS_FILE = "revocations.json"
log = logging.getLogger(__name__)


class StateInUseError(Exception):
    """Another controller works in this state directory."""


class Model(ResourceView, Placement, Protocol):
    """The mesh model, as the controller uses it."""


@dataclass(frozen=True)
class Settings:
    """How a controller runs. `authority_dir` None = an authority of its own in the state directory;
    `metrics_listen` None = all addresses; ports 0 = any."""

    state_dir: Path
    admin_socket: Path
    authority_dir: Path | None = None
    trust_domain: str = wire.DEFAULT_TRUST_DOMAIN
    cluster: str = wire.DEFAULT_CLUSTER
    root_namespace: str = wire.DEFAULT_ROOT_NAMESPACE
    listen: str = "[::]"
    token_port: int = wire.XDS_TOKEN_PORT
    agent_port: int = wire.XDS_MTLS_PORT
    metrics_listen: str | None = None
    metrics_port: int = 15014
    hostnames: tuple[str, ...] = ()
    max_ttl_s: int = DEFAULT_TTL_S


@dataclass(frozen=True)
class Ports:
    """Where a running controller listens."""

    token: int
    agent: int
    metrics: int


class Controller:
    """Made once, run once. Raises what the state directory's files are wrong about."""

    def __init__(
        self,
        settings: Settings,
        model: Model,
        objects: Objects,
        *,
        metrics: Metrics | None = None,
        accounts: Accounts | None = None,
        shared: Shared | None = None,
        proxies: Proxies | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """With `accounts`, agents may prove themselves by service-account tokens, too; with `proxies`, Envoys are configured.

        Without `shared`, join tokens and root are its alone.
        """
        self._settings = settings
        self._accounts = accounts
        self._model = model
        self._clock = clock
        self._metrics = metrics or Metrics()
        self.ports: Ports | None = None
        """None until the controller is ready."""
        self._open_state(shared)
        self._hub = Hub(self._views(), self._metrics, clock, proxies)
        if proxies is not None:
            proxies.follow_trust(self._revocations, self._former_roots)
        self._tls = ServerTLS(ServerCertificate(self._authority, (*DEFAULT_HOSTNAMES, *settings.hostnames), clock))
        self._authority.on_change(self._tls.refresh)
        self._signers = ThreadPoolExecutor(SIGNING_THREADS, thread_name_prefix="signer")
        self._admin = AdminParts(
            authority=self._authority,
            tokens=self._tokens,
            revocations=self._revocations,
            placement=model,
            hub=self._hub,
            proxies=proxies,
            objects=objects,
            trust_domain=settings.trust_domain,
            clock=clock,
            ready=lambda: self.ports is not None,
            joining=self._joining,
            root=shared.root if shared else self._own_root(),
        )
        self.machines = Machines()
        """Virtual machines that are connected; somebody must see to their entries."""
        self._observe()

    def _open_state(self, shared: Shared | None) -> None:
        """Whatever outlives the process, in the state directory: raises what its files are wrong about."""
        settings = self._settings
        make_private_directory(settings.state_dir)
        self._lock = _lock(settings.state_dir / "lock")
        self._authority = Authority(
            settings.authority_dir or settings.state_dir / "ca",
            trust_domain=settings.trust_domain,
            own=settings.authority_dir is None,
            clock=self._clock,
        )
        self._revocations = Revocations(settings.state_dir / REVOCATIONS_FILE)
        self._former_roots = FormerRoots(settings.state_dir / "roots.json", self._authority)
        self._tokens = JoinTokens(shared.tokens if shared else TokenFile(settings.state_dir / "join-tokens.json"))
        self._audit = AuditLog(settings.state_dir / "audit.log", self._clock)

    def _views(self) -> dict[TypeURL, ResourceView]:
        trust = TrustView(self._authority, self._revocations, self._settings.trust_domain)
        of_model = (wire.ADDRESS_TYPE, wire.AUTHORIZATION_TYPE, wire.NAMES_TYPE)
        return {**{TypeURL(each): self._model for each in of_model}, TypeURL(wire.TRUST_TYPE): trust, WORKLOAD: WorkloadNames(self._model)}

    def _observe(self) -> None:
        self._metrics.machines.set_function(lambda: len(self.machines.connected))
        self._metrics.machines_refused.set_function(lambda: self.machines.refused)
        self._metrics.observe(
            connected=lambda: self._hub.connected,
            reload_failed=lambda: self._authority.reload_error is not None,
            issuer_end_s=self._issuer_end_s,
        )

    def _own_root(self) -> RootStore | None:
        settings = self._settings
        own = settings.authority_dir is None
        return RootDirectory(settings.state_dir / "ca", settings.trust_domain, self._clock) if own else None

    def _joining(self) -> JoiningInfo | None:
        settings = self._settings
        if self.ports is None:
            return None
        return JoiningInfo(
            cluster=settings.cluster,
            trust_domain=settings.trust_domain,
            root_namespace=settings.root_namespace,
            token_port=self.ports.token,
            agent_port=self.ports.agent,
            hostnames=(*settings.hostnames, *DEFAULT_HOSTNAMES),
        )

    def _issuer_end_s(self) -> float:
        return self._authority.issuer.certificate.not_valid_after_utc.timestamp()

    @property
    def revocations(self) -> Revocations:
        """What is revoked."""
        return self._revocations

    def roots(self) -> str:
        """The roots that are trusted now, in PEM."""
        return self._authority.issuer.roots_pem.decode("ascii")

    async def run(self, synced: asyncio.Event, ready: asyncio.Event) -> None:
        """Serves until cancelled; listens for agents only once `synced` is set, since a part of the model would read as removals."""
        async with AsyncExitStack() as opened:
            opened.callback(self._release)
            admin = await open_admin_socket(make_app(self._admin), self._settings.admin_socket)
            opened.callback(self._settings.admin_socket.unlink, missing_ok=True)
            opened.push_async_callback(admin.cleanup)
            metrics, metrics_port = await self._open_metrics()
            opened.push_async_callback(metrics.cleanup)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._authority.watch(), name="authority watch")
                tasks.create_task(self._follow_certificate(), name="server certificate")
                await synced.wait()
                await self._serve(metrics_port, ready)

    def _release(self) -> None:
        self._signers.shutdown()
        self._audit.close()
        os.close(self._lock)

    async def _serve(self, metrics_port: int, ready: asyncio.Event) -> None:
        settings = self._settings
        by_certificate = CertificateAuthenticator(
            self._authority, self._revocations, self._model, trust_domain=settings.trust_domain, clock=self._clock
        )
        by_account = self._by_account()
        by_token: Authenticator = TokenAuthenticator(self._tokens, self._clock)
        if by_account is not None:
            by_token = AnyTokenAuthenticator(by_token, by_account)
        # Who holds a service account's token may follow discovery with it, and names all that it has when it comes back.
        token_request_bytes = MAX_STRANGER_REQUEST_BYTES if by_account is None else MAX_AGENT_REQUEST_BYTES
        parts = self._issuance_parts()
        servers, ports = [], []
        openings = CallerLimits(STREAM_LIMITS, time.monotonic)
        listeners: tuple[tuple[int, Authenticator], ...] = ((settings.token_port, by_token), (settings.agent_port, by_certificate))
        for port, authenticator in listeners:
            access = Access(authenticator, settings.cluster, openings, self._audit, self._metrics)
            handlers = [certificate_handler(Issuance(parts, authenticator)), DiscoveryService(self._hub, access).handler()]
            if authenticator is by_certificate:
                handlers.append(self._machine_service(by_certificate, openings).handler())
            server, bound = make_listener(
                f"{settings.listen}:{port}",
                self._tls.credentials(client_certificates=authenticator is by_certificate),
                handlers,
                max_request_bytes=MAX_AGENT_REQUEST_BYTES if authenticator is by_certificate else token_request_bytes,
            )
            servers.append(server)
            ports.append(bound)
        guard = StreamGuard(self._hub, Proofs(by_certificate, by_account), self._authority, self._revocations)
        try:
            for server in servers:
                await server.start()
            self.ports = Ports(token=ports[0], agent=ports[1], metrics=metrics_port)
            log.info("serving nodes on port %d (tokens) and %d (agent certificates)", *ports)
            ready.set()
            await guard.run()
        finally:
            self.ports = None
            self._hub.close()
            await asyncio.gather(*(server.stop(STOP_GRACE_S) for server in servers))

    def _machine_service(self, authenticator: CertificateAuthenticator, openings: CallerLimits) -> MachineService:
        return MachineService(
            MachineParts(
                machines=self.machines,
                authenticator=authenticator,
                revocations=self._revocations,
                openings=openings,
                audit=self._audit,
                metrics=self._metrics,
                trust_domain=self._settings.trust_domain,
                cluster=self._settings.cluster,
                clock=self._clock,
            )
        )

    def _by_account(self) -> ServiceAccountAuthenticator | None:
        if self._accounts is None:
            return None
        return ServiceAccountAuthenticator(
            self._accounts, self._model, self._revocations, trust_domain=self._settings.trust_domain, clock=self._clock
        )

    def _issuance_parts(self) -> IssuanceParts:
        return IssuanceParts(
            authority=self._authority,
            revocations=self._revocations,
            tokens=self._tokens,
            placement=self._model,
            audit=self._audit,
            metrics=self._metrics,
            limits=CallerLimits(Limits(), time.monotonic),
            signers=self._signers,
            trust_domain=self._settings.trust_domain,
            cluster=self._settings.cluster,
            clock=self._clock,
            max_ttl_s=self._settings.max_ttl_s,
        )

    async def _follow_certificate(self) -> None:
        while True:
            await asyncio.sleep(TLS_PERIOD_S)
            self._tls.refresh()

    async def _open_metrics(self) -> tuple[web.AppRunner, int]:
        async def metrics(_request: web.Request) -> web.Response:
            return web.Response(body=self._metrics.render(), headers={"Content-Type": CONTENT_TYPE})

        async def ready(_request: web.Request) -> web.Response:
            return web.Response(text="ready\n") if self.ports else web.Response(status=503, text="the configuration is not read yet\n")

        app = web.Application()
        app.add_routes([web.get("/metrics", metrics), web.get("/ready", ready)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, self._settings.metrics_listen, self._settings.metrics_port)
        await site.start()
        return runner, int(runner.addresses[0][1])


def _lock(path: Path) -> int:
    """Held as long as the process: two controllers in one directory would undo each other's tokens and revocations."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StateInUseError(f"another controller works in {path.parent}") from None
    return descriptor
