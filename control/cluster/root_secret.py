"""The mesh's root in the cluster: a Secret that whoever starts first makes, once, and that all replicas sign below.

`cacerts`, in the layout of Istio's plug-in authority, is the authority where it stands at the start. Else the root is in
`nodemesh-root`; each replica makes an intermediate of its own below it, on its own disk, as it does without Kubernetes, and
`meshctl root rotate` changes it.
"""

import asyncio
import base64
import binascii
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from control.ca.issuer import CERTIFICATE_FILE, CHAIN_FILE, KEY_FILE, ROOTS_FILE, IssuerError
from control.ca.own_root import OWN_ROOT_FILE, ROOT_KEY_FILE, make_root
from control.ca.private_files import make_private_directory, write_private
from control.ca.refusal import UnavailableError
from control.ca.root_files import OWN_FILES, REQUIRED, write_root
from control.ca.rotation import Files, Step
from kubeapi.backoff import Backoff
from kubeapi.client import APIError, KubeClient

GIVEN: Final = "cacerts"
OWN: Final = "nodemesh-root"
# The key after what it belongs to: a set that is broken in the middle is not used.
GIVEN_FILES: Final = (ROOTS_FILE, CHAIN_FILE, CERTIFICATE_FILE, KEY_FILE)
PERIOD_S: Final = 30.0
TRIES: Final = 8
log = logging.getLogger(__name__)


class _Meta(Struct, frozen=True, rename="camel"):
    resource_version: str = ""


class _Secret(Struct, frozen=True):
    metadata: _Meta = _Meta()
    data: dict[str, str] | None = None


class RootSecret:
    """The secret of `namespace`, and its files in `directory`, which the certificate authority reads."""

    def __init__(self, client: KubeClient, namespace: str, directory: Path, trust_domain: str, clock: Callable[[], float]) -> None:
        self._client = client
        self._collection = f"/api/v1/namespaces/{namespace}/secrets"
        self._directory = directory
        self._trust_domain = trust_domain
        self._clock = clock
        self._held: Files = {}
        self._version = ""
        self._turn = asyncio.Lock()
        self.given = False
        """Whether the authority is an operator's: then its files are the authority, else only its root."""

    async def prepare(self) -> None:
        """Returns when the files are there; raises IssuerError for a secret that holds no authority."""
        backoff = Backoff(random.random)
        while True:
            try:
                found = await self._get(GIVEN)
                files, version = await self._own() if found is None else found
            except APIError as error:
                log.warning("the mesh's root: %s", error)
                await asyncio.sleep(backoff.after_failure())
            else:
                self.given = found is not None
                await self._place(files, version)
                return

    async def files(self) -> Files:
        """See `RootStore`. Raises UnavailableError."""
        found, _ = await self._newest()
        return found

    async def change(self, step: Step) -> None:
        """See `RootStore`. The secret is changed in the version that the step was made from; other replicas follow within a minute."""
        for _ in range(TRIES):
            files, version = await self._newest()
            wanted = step(files)
            body = _secret(wanted) | {"metadata": {"name": OWN, "resourceVersion": version}}
            try:
                _, version = _read(OWN, await self._client.request("PUT", f"{self._collection}/{OWN}", body=body))
            except APIError as error:
                if error.status == 409:
                    continue
                raise UnavailableError("root-store", f"the secret {OWN}: {error}") from error
            await self._place(wanted, version)
            return
        raise UnavailableError("root-store", f"the secret {OWN} changes all the time")

    async def _newest(self) -> tuple[Files, str]:
        try:
            found = await self._get(OWN)
        except (APIError, IssuerError) as error:
            raise UnavailableError("root-store", f"the secret {OWN}: {error}") from error
        if found is None:
            raise UnavailableError("root-store", f"the secret {OWN} is gone, and about to be put back")
        return found

    async def follow(self) -> None:
        """Brings what changes in the secret to the files, until cancelled."""
        while True:
            await asyncio.sleep(PERIOD_S * (0.5 + random.random()))  # noqa: S311 -- only so that replicas do not ask all at once
            try:
                found = await self._get(GIVEN if self.given else OWN)
                if found is not None:
                    await self._place(*found)
                elif not self.given:
                    # Else the next replica that starts would make another root, which nobody trusts.
                    log.warning("the secret %s is gone: it is put back", OWN)
                    await self._create(self._held)
            except (APIError, IssuerError, OSError) as error:
                log.warning("the mesh's root: %s; what is in force stays", error)

    async def _own(self) -> tuple[Files, str]:
        """The secret, made if there is none: who comes second takes what the first one made."""
        while (found := await self._get(OWN)) is None:
            certificate, key = make_root(self._trust_domain, self._clock())
            await self._create({OWN_ROOT_FILE: certificate, ROOTS_FILE: certificate, ROOT_KEY_FILE: key})
        return found

    async def _get(self, name: str) -> tuple[Files, str] | None:
        try:
            body = await self._client.request("GET", f"{self._collection}/{name}")
        except APIError as error:
            if error.status == 404:
                return None
            raise
        return _read(name, body)

    async def _create(self, files: Files) -> None:
        try:
            await self._client.request("POST", self._collection, body=_secret(files))
        except APIError as error:
            if error.status != 409:
                raise

    async def _place(self, files: Files, version: str) -> None:
        """What follows the secret, and what changes it, take turns; an answer that was overtaken is dropped."""
        async with self._turn:
            overtaken = version.isdecimal() and self._version.isdecimal() and int(version) < int(self._version)
            if not overtaken and files != self._held:
                await asyncio.to_thread(self._write, files)
                self._held, self._version = files, version

    def _write(self, files: Files) -> None:
        if not self.given:
            write_root(self._directory, files, self._trust_domain, self._clock())
            return
        make_private_directory(self._directory)
        for name in GIVEN_FILES:
            if name in files:
                write_private(self._directory / name, files[name])
            else:
                (self._directory / name).unlink(missing_ok=True)


def _read(name: str, body: bytes) -> tuple[Files, str]:
    """The files in a secret, and its version. Raises IssuerError for one that holds no authority."""
    wanted, required = (GIVEN_FILES, set(GIVEN_FILES) - {CHAIN_FILE}) if name == GIVEN else (OWN_FILES, set(REQUIRED))
    try:
        secret = msgspec.json.decode(body, type=_Secret)
        data = secret.data or {}
        files = {file: base64.b64decode(data[file], validate=True) for file in wanted if data.get(file)}
    except (msgspec.DecodeError, UnicodeDecodeError, binascii.Error) as error:
        # What a secret holds goes into no message.
        raise IssuerError(f"the secret {name} can't be read") from error
    missing = [file for file in wanted if file in required and file not in files]
    if missing:
        raise IssuerError(f"the secret {name} lacks {', '.join(missing)}")
    return files, secret.metadata.resource_version


def _secret(files: Files) -> dict[str, Any]:
    data = {name: base64.b64encode(content).decode() for name, content in files.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": OWN}, "type": "Opaque", "data": data}
