"""Names that stand for names which the mesh does not know: the resolver that was asked is asked for those, and its answer led to."""

from typing import Final

from msgspec.structs import replace

from nodeagent.dns.forwarding import Forwarder
from nodeagent.dns.lookup import TTL_S, NeedsResolver
from nodeagent.dns.wire import (
    MAX_MESSAGE_BYTES,
    Answer,
    Code,
    MalformedError,
    Query,
    Record,
    Type,
    answered_with,
    read_response,
    write_answer,
    write_name,
)

_ADDRESS_BYTES: Final = {Type.A: 4, Type.AAAA: 16}


async def follow(query: Query, found: NeedsResolver, forwarder: Forwarder, server: str, *, by_tcp: bool, limit_bytes: int) -> bytes | None:
    """The answer to a question for addresses; None if the resolver gives none."""
    asked = replace(query, question=write_name(found.target) + query.question[-4:], name=found.target)
    packet = forwarder.cached(asked, server, by_tcp=by_tcp, limit_bytes=MAX_MESSAGE_BYTES)
    packet = packet or await forwarder.ask(asked, server, by_tcp=by_tcp, limit_bytes=MAX_MESSAGE_BYTES)
    if packet is None:
        return None
    try:
        response = read_response(packet)
        data, ttl_s = answered_with(packet, query.type)
    except MalformedError:
        return None
    if response.truncated:
        # Without room nothing is said but that there is more.
        return write_answer(query, Answer(found.told, authoritative=False), limit_bytes=0)
    if response.code not in {Code.NO_ERROR, Code.NO_NAME}:
        return None
    records = tuple(Record(query.type, one, found.target) for one in data if len(one) == _ADDRESS_BYTES[Type(query.type)])
    answer = Answer(found.told + records, code=Code(response.code), authoritative=False)
    return write_answer(query, answer, ttl_s=min(ttl_s, TTL_S) if records else TTL_S, limit_bytes=limit_bytes)
