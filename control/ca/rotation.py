"""Rolling the mesh's own root over, in steps between which everything works: from the root's files to those after a step.

1. start: a second root is made, and trusted beside the first one.
2. activate: the second root signs; the key of the first one is forgotten.
3. finish: the first root is trusted no more.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import Struct

from control.ca.issuer import MAX_ROOTS, ROOTS_FILE
from control.ca.own_root import NEXT_KEY_FILE, NEXT_ROOT_FILE, OWN_ROOT_FILE, ROOT_KEY_FILE, make_root
from control.ca.x509_errors import UNREADABLE

ROTATION_FILE: Final = "rotation.json"
Files = Mapping[str, bytes]
Step = Callable[[Files], Files]


class Phase(StrEnum):
    """`none`: one root signs, and nothing is under way."""

    NONE = "none"
    STARTED = "started"
    ACTIVATED = "activated"


class Rotation(Struct, frozen=True):
    """What is under way. `root` is the root (SHA-256 of its certificate, hexadecimal) that comes, or, once activated, the one that goes."""

    phase: Phase
    since_s: float
    root: str


class RotationError(Exception):
    """A step that is not the next one, or files that it can't be done with."""


def rotation(files: Files) -> Rotation | None:
    """What is under way, None if nothing is; raises RotationError for a file that can't be read."""
    text = files.get(ROTATION_FILE)
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=Rotation)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RotationError(f"{ROTATION_FILE}: {error}") from error


def start(files: Files, trust_domain: str, now_s: float) -> Files:
    _expect(files, None)
    certificate, key = make_root(trust_domain, now_s)
    roots = _roots(files)
    if len(roots) >= MAX_ROOTS:
        raise RotationError(f"there are {len(roots)} roots already")
    (made,) = x509.load_pem_x509_certificates(certificate)
    return {
        **files,
        NEXT_ROOT_FILE: certificate,
        NEXT_KEY_FILE: key,
        ROOTS_FILE: _pem([*roots, made]),
        ROTATION_FILE: msgspec.json.encode(Rotation(Phase.STARTED, now_s, fingerprint(made))),
    }


def activate(files: Files, now_s: float) -> Files:
    _expect(files, Phase.STARTED)
    former = _first(files, OWN_ROOT_FILE)
    rest = {name: content for name, content in files.items() if name not in {NEXT_ROOT_FILE, NEXT_KEY_FILE}}
    return {
        **rest,
        OWN_ROOT_FILE: files[NEXT_ROOT_FILE],
        ROOT_KEY_FILE: files[NEXT_KEY_FILE],
        ROTATION_FILE: msgspec.json.encode(Rotation(Phase.ACTIVATED, now_s, fingerprint(former))),
    }


def finish(files: Files) -> Files:
    going = _expect(files, Phase.ACTIVATED)
    return _without(files, going.root)


def cancel(files: Files) -> Files:
    """Only before the second root signs: later there is no way back but another rotation."""
    coming = _expect(files, Phase.STARTED)
    return _without(files, coming.root)


def fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(SHA256()).hex()


def _without(files: Files, root: str) -> Files:
    roots = [one for one in _roots(files) if fingerprint(one) != root]
    gone = {NEXT_ROOT_FILE, NEXT_KEY_FILE, ROTATION_FILE}
    return {**{name: content for name, content in files.items() if name not in gone}, ROOTS_FILE: _pem(roots)}


def _expect(files: Files, phase: Phase | None) -> Rotation:
    under_way = rotation(files)
    if (under_way.phase if under_way else None) is not phase:
        raise RotationError(f"a rotation is {under_way.phase}" if under_way else "no rotation is under way")
    if phase is Phase.STARTED and not (files.get(NEXT_ROOT_FILE) and files.get(NEXT_KEY_FILE)):
        raise RotationError("the root that was to come is gone")
    return under_way or Rotation(Phase.NONE, 0, "")


def _roots(files: Files) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(files[ROOTS_FILE])
    except (KeyError, *UNREADABLE) as error:
        raise RotationError(f"{ROOTS_FILE}: the roots can't be read") from error


def _first(files: Files, name: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(files[name])
    except (KeyError, *UNREADABLE) as error:
        raise RotationError(f"{name} can't be read") from error


def _pem(roots: list[x509.Certificate]) -> bytes:
    return b"".join(root.public_bytes(Encoding.PEM) for root in roots)
