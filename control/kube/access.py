"""Where the API server is, and how to prove who we are: from a kubeconfig, or from what every pod is given."""

import base64
import binascii
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class AccessError(Exception):
    """The API server can't be found, or there is nothing to prove ourselves with; says what to do."""


@dataclass(frozen=True)
class Access:
    """`token_file` is read again and again, since tokens are replaced; `namespace` is our own, if that is known."""

    server: str
    tls: ssl.SSLContext = field(repr=False)
    token: str = field(default="", repr=False)
    token_file: Path | None = None
    server_name: str = ""
    namespace: str = ""


class _Cluster(Struct, frozen=True, rename="kebab"):
    server: str = ""
    certificate_authority: str = ""
    certificate_authority_data: str = ""
    insecure_skip_tls_verify: bool = False
    tls_server_name: str = ""


class _User(Struct, frozen=True, rename="kebab"):
    token: str = ""
    token_file: str = msgspec.field(default="", name="tokenFile")
    client_certificate: str = ""
    client_certificate_data: str = ""
    client_key: str = ""
    client_key_data: str = ""
    exec: object = None
    auth_provider: object = None


class _Context(Struct, frozen=True):
    cluster: str
    user: str = ""
    namespace: str = ""


class _NamedCluster(Struct, frozen=True):
    name: str
    cluster: _Cluster


class _NamedUser(Struct, frozen=True):
    name: str
    user: _User


class _NamedContext(Struct, frozen=True):
    name: str
    context: _Context


class _Kubeconfig(Struct, frozen=True, rename="kebab"):
    current_context: str = ""
    clusters: tuple[_NamedCluster, ...] = ()
    users: tuple[_NamedUser, ...] = ()
    contexts: tuple[_NamedContext, ...] = ()


def in_cluster(environment: Mapping[str, str] | None = None, directory: Path = SERVICE_ACCOUNT) -> Access:
    """As a pod's service account; raises AccessError outside of a pod."""
    given = os.environ if environment is None else environment
    host, port = given.get("KUBERNETES_SERVICE_HOST"), given.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise AccessError("this is no pod (KUBERNETES_SERVICE_HOST is not set): give a kubeconfig with --kubeconfig")
    try:
        tls = ssl.create_default_context(cafile=str(directory / "ca.crt"))
        namespace = (directory / "namespace").read_text().strip()
    except OSError as error:
        raise AccessError(f"{directory}: {error}; the pod needs its service account's token") from error
    shown = f"[{host}]" if ":" in host else host
    return Access(f"https://{shown}:{port}", tls, token_file=directory / "token", namespace=namespace)


def from_kubeconfig(path: Path) -> Access:
    """The current context of a kubeconfig; raises AccessError. Programs that make tokens (`exec`) are not run."""
    try:
        config = msgspec.yaml.decode(path.read_bytes(), type=_Kubeconfig)
    except (OSError, msgspec.DecodeError, ValueError) as error:
        raise AccessError(f"{path}: {error}") from error
    context = next((one.context for one in config.contexts if one.name == config.current_context), None)
    if context is None:
        raise AccessError(f"{path}: there is no context {config.current_context!r}: set current-context")
    cluster = next((one.cluster for one in config.clusters if one.name == context.cluster), None)
    if cluster is None or not cluster.server.startswith("https://"):
        raise AccessError(f"{path}: cluster {context.cluster!r} has no server with https")
    if cluster.insecure_skip_tls_verify:
        raise AccessError(f"{path}: insecure-skip-tls-verify would trust anybody as the API server: give certificate-authority instead")
    user = next((one.user for one in config.users if one.name == context.user), _User())
    if user.exec is not None or user.auth_provider is not None:
        raise AccessError(f"{path}: user {context.user!r} gets tokens from a program, which is not run: use tokenFile or a certificate")
    return Access(
        server=cluster.server.rstrip("/"),
        tls=_tls(path, cluster, user),
        token=user.token,
        token_file=path.parent / user.token_file if user.token_file else None,
        server_name=cluster.tls_server_name,
        namespace=context.namespace,
    )


def _tls(path: Path, cluster: _Cluster, user: _User) -> ssl.SSLContext:
    try:
        authority = _content(path, cluster.certificate_authority, cluster.certificate_authority_data)
        tls = ssl.create_default_context(cadata=authority.decode("ascii") if authority else None)
        certificate = _content(path, user.client_certificate, user.client_certificate_data)
        key = _content(path, user.client_key, user.client_key_data)
        if certificate and key:
            _load_certificate(tls, certificate + b"\n" + key)
    except (OSError, ValueError, binascii.Error) as error:
        raise AccessError(f"{path}: certificates can't be used: {error}") from error
    return tls


def _content(path: Path, file: str, data: str) -> bytes:
    """Data given in the kubeconfig wins over a file, which is relative to the kubeconfig."""
    if data:
        return base64.b64decode(data, validate=True)
    return (path.parent / file).read_bytes() if file else b""


def _load_certificate(tls: ssl.SSLContext, pem: bytes) -> None:
    # The ssl module reads certificate and key from files alone.
    with tempfile.NamedTemporaryFile() as file:
        file.write(pem)
        file.flush()
        tls.load_cert_chain(file.name)
