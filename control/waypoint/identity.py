"""Keeps the identity: gets the certificate, renews it at half its life and when the roots change, and follows the roots.

Whoever needs them reads `svid` and `roots_pem`, and is woken by `on_change`.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from google.protobuf.message import DecodeError

from control.ca.join_tokens import PREFIX
from control.rpc import aio
from control.waypoint import certificate
from control.waypoint.certificate import SVID, CertificateError
from control.waypoint.dialling import Backoff, Dialler, Proof
from control.waypoint.settings import Settings
from meshapi import discovery, wire
from meshapi.decoding import ModelError
from meshapi.proto.certificates_pb2 import IstioCertificateRequest, IstioCertificateResponse
from meshapi.trust import decode_trust

CREATE = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
DEADLINE_S = 10.0
PAUSE_S = 5.0
"""Between a certificate and its renewal, at least: the last ones of an issuer that ends are past half their life when they come."""
LOOK_S = 10.0
"""How often the wall clock is looked at: it may jump."""
log = logging.getLogger(__name__)


class NoProofError(Exception):
    """There is neither a certificate nor a token to get one with."""


class Identity:
    """One SVID and the roots of its mesh."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self._dialler = Dialler(settings.controllers)
        self._name = str(settings.identity)
        self._watchers: list[Callable[[], None]] = []
        self._renew = asyncio.Event()
        self.roots_pem = settings.roots_pem
        self.svid: SVID | None = certificate.kept(settings.state_dir, self._name, settings.roots_pem, clock())
        self.ready = asyncio.Event()
        """Set once there is a certificate."""
        if self.svid is not None:
            self.ready.set()

    def on_change(self, watcher: Callable[[], None]) -> Callable[[], None]:
        """Calls `watcher` after certificate or roots changed; returns what ends it."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    async def run(self) -> None:
        """Until cancelled; raises NoProofError if there is no way to a first certificate."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_certificate(), name="certificate")
            await self.ready.wait()
            tasks.create_task(self._follow_roots(), name="roots")

    # ---- the certificate

    async def _keep_certificate(self) -> None:
        backoff = Backoff()
        while True:
            await self._until_due()
            self._renew.clear()
            try:
                await self._get()
            except (aio.AioRpcError, CertificateError, DecodeError, TimeoutError, OSError) as error:
                self._dialler.failed()
                log.warning("no certificate for %s: %s", self._name, words(error))
                await asyncio.sleep(backoff.next_s())
                self._renew.set()
                continue
            backoff.reset()
            await asyncio.sleep(PAUSE_S)

    async def _until_due(self) -> None:
        """Returns at half of the certificate's life, at once without one, and when it is asked for."""
        while self._usable and not self._renew.is_set() and self.svid is not None and self._clock() < self.svid.half_life_s:
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._renew.wait()
            except TimeoutError:
                continue

    @property
    def _usable(self) -> bool:
        return self.svid is not None and self.svid.not_before_s <= self._clock() < self.svid.not_after_s

    async def _get(self) -> None:
        key = certificate.new_key()
        request = IstioCertificateRequest(csr=certificate.request_pem(key, self._name), validity_duration=self._settings.ttl_s)
        proof = await self._proof()
        async with self._dialler.channel(proof) as channel:
            create = channel.unary_unary(CREATE, None, None)
            call = create(request.SerializeToString(), metadata=self._dialler.metadata(proof), timeout=DEADLINE_S)
            chain = IstioCertificateResponse.FromString(await call).cert_chain
        svid = certificate.check(self._name, list(chain), key, self.roots_pem, self._clock())
        await asyncio.to_thread(certificate.keep, self._settings.state_dir, svid)
        self.svid = svid
        log.info("certificate of %s until %s", self._name, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(svid.not_after_s)))
        self.ready.set()
        self._changed()

    async def _proof(self) -> Proof:
        token = self._settings.token
        if self._settings.token_file is not None:
            token = (await asyncio.to_thread(self._settings.token_file.read_text)).strip()
        # Kubernetes knows whether this pod is still there, a certificate says only that it was; a join token works once.
        if self._usable and (token is None or token.startswith(f"{PREFIX}.")):
            return Proof(self.roots_pem, svid=self.svid)
        if token is None:
            raise NoProofError(f"there is no certificate of {self._name} that is still good, and no token to get one with")
        return Proof(self.roots_pem, token=token)

    # ---- the roots

    async def _follow_roots(self) -> None:
        backoff = Backoff()
        while True:
            try:
                await self._read_roots(backoff)
            except (aio.AioRpcError, discovery.DiscoveryError, ModelError, ValueError, TimeoutError, OSError) as error:
                self._dialler.failed()
                log.info("the stream of roots ended: %s", words(error))
            await asyncio.sleep(backoff.next_s())

    async def _read_roots(self, backoff: Backoff) -> None:
        proof = self.proof()
        async with self._dialler.channel(proof) as channel:
            call = channel.stream_stream(discovery.DELTA_METHOD, None, None)(None, metadata=self._dialler.metadata(proof))
            node = discovery.Node(f"waypoint~roots~{self.instance}")
            await call.write(discovery.encode_request(discovery.Request(wire.TRUST_TYPE, node=node)))
            while isinstance(body := await call.read(), bytes):
                response = discovery.decode_response(body)
                for resource in response.resources:
                    bundle = decode_trust(resource.body)
                    if bundle.trust_domain == self._settings.trust_domain:
                        self._take_roots(bundle.roots)
                await call.write(discovery.encode_request(discovery.Request(wire.TRUST_TYPE, nonce=response.nonce)))
                backoff.reset()

    @property
    def instance(self) -> str:
        """What tells this Envoy from others of its Gateway."""
        return f"{self._settings.instance or self._settings.gateway}.{self._settings.namespace}"

    def proof(self) -> Proof:
        """For a stream that is opened now."""
        return Proof(self.roots_pem, svid=self.svid)

    @property
    def dialler(self) -> Dialler:
        return self._dialler

    def _take_roots(self, roots: tuple[bytes, ...]) -> None:
        pem = b"".join(x509.load_der_x509_certificate(one).public_bytes(Encoding.PEM) for one in roots)
        if pem == self.roots_pem or not pem:
            return
        self.roots_pem = pem
        log.info("the mesh trusts %d root(s) now", len(roots))
        self._changed()
        # What was signed below a root that is on its way out should be replaced as long as it is good.
        self._renew.set()

    def _changed(self) -> None:
        for watcher in tuple(self._watchers):
            watcher()


def words(error: BaseException) -> str:
    """What to log of a failed call."""
    if isinstance(error, aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"[:300]
    return str(error)[:300] or type(error).__name__
