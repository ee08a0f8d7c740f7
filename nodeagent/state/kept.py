"""The last good configuration as it is kept: resources as they came, with their versions, and what was asked for."""

from typing import Final

import msgspec
from msgspec import Struct

from meshapi.discovery import Resource
from nodeagent.state.files import StateDirectory

FILE: Final = "configuration"


class Kept(Struct, frozen=True):
    """`resources` by type URL; `wanted` the keys that were subscribed, `absent` those of them that named nothing."""

    resources: dict[str, tuple[Resource, ...]] = {}
    wanted: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    rejected: dict[str, dict[str, str]] = {}
    """By type URL, the names of resources that could not be understood, and why."""
    policies_arrived: bool = False
    answered: tuple[str, ...] = ()
    """Those of the subscribed keys that the controller has answered with something."""


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Kept] = msgspec.msgpack.Decoder(Kept)


def encode_kept(kept: Kept) -> bytes:
    return _encoder.encode(kept)


def load_kept(directory: StateDirectory) -> Kept:
    """What was kept; nothing if there is nothing, or nothing that can be used."""
    body = directory.read(FILE)
    if body is None:
        return Kept()
    try:
        return _decoder.decode(body)
    except msgspec.MsgspecError as error:
        directory.set_aside(FILE, f"it does not decode: {error}")
        return Kept()
