"""The file that a virtual machine joins with: where the controller is, how to know it, and a token that works once."""

from typing import Final

import msgspec
from msgspec import Struct

from meshapi.decoding import MAX_PORT
from meshapi.spiffe import AgentIdentity, IdentityError
from meshapi.vm import VMName, parse_vm

VERSION: Final = 1
MAX_BYTES: Final = 256 * 1024
_MAX_HOST: Final = 253


class BundleError(ValueError):
    """A file that is no bundle; the text says why."""


class ControllerPlace(Struct, frozen=True):
    """`server_name`: what the controller's certificate names, where that is not `host`."""

    host: str
    certificate_port: int
    token_port: int
    server_name: str | None = None


class Bundle(Struct, frozen=True, forbid_unknown_fields=True):
    """Times in Unix seconds. `node` is the machine's name in the mesh, which says what it may join."""

    version: int
    node: str
    controller: ControllerPlace
    roots_pem: str
    token: str
    trust_domain: str
    cluster: str
    root_namespace: str
    created_s: int
    expires_s: int
    accounts: dict[str, str] = {}
    """The service account of each group, by `namespace/name`, as it was then: only for what people write."""

    def __repr__(self) -> str:
        return f"Bundle({self.node}, token withheld)"

    @property
    def machine(self) -> VMName:
        machine = parse_vm(self.node)
        if machine is None:
            raise BundleError(f"{self.node[:80]!r} is no machine's name")
        return machine


def encode_bundle(bundle: Bundle) -> bytes:
    return msgspec.json.format(msgspec.json.encode(bundle)) + b"\n"


def decode_bundle(text: bytes) -> Bundle:
    """Raises BundleError."""
    if len(text) > MAX_BYTES:
        raise BundleError(f"longer than {MAX_BYTES} bytes")
    try:
        bundle = msgspec.json.decode(text, type=Bundle)
        AgentIdentity(bundle.trust_domain, bundle.node)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, IdentityError) as error:
        raise BundleError(f"is no bundle: {error}") from error
    if bundle.version != VERSION:
        raise BundleError(f"is a bundle of version {bundle.version}: this agent reads version {VERSION}")
    _ = bundle.machine
    place = bundle.controller
    if not 0 < place.certificate_port <= MAX_PORT or not 0 < place.token_port <= MAX_PORT:
        raise BundleError("names a port that is none")
    for name in (place.host, place.server_name or place.host):
        if not 0 < len(name) <= _MAX_HOST or not name.isascii() or not name.isprintable() or any(mark in name for mark in " /@"):
            raise BundleError(f"names {name[:80]!r} as a host")
    if not bundle.token.isascii() or not bundle.token.isprintable() or not bundle.token:
        raise BundleError("holds no token")
    return bundle
