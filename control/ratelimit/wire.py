"""Envoy's question as it is on the wire, with bytes where it has text: values are of callers' headers, and need not be UTF-8.

Read as text, such a question would be none, so that whoever sends one could choose that nobody counts.
"""

from functools import cache
from typing import Final, TypeAlias

from google.protobuf import message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from control.envoy.messages import Message

_PACKAGE: Final = "nodemesh.ratelimit"
_BYTES, _UINT32, _UINT64 = FieldDescriptorProto.TYPE_BYTES, FieldDescriptorProto.TYPE_UINT32, FieldDescriptorProto.TYPE_UINT64
_ONE, _MANY = FieldDescriptorProto.LABEL_OPTIONAL, FieldDescriptorProto.LABEL_REPEATED
_Kind: TypeAlias = "FieldDescriptorProto.Type.ValueType | str"
_MESSAGES: Final[dict[str, tuple[tuple[int, str, _Kind, bool], ...]]] = {
    "Entry": ((1, "key", _BYTES, False), (2, "value", _BYTES, False)),
    "Limit": ((1, "requests_per_unit", _UINT32, False), (2, "unit", _UINT32, False)),
    "Hits": ((1, "value", _UINT64, False),),
    "Descriptor": ((1, "entries", "Entry", True), (2, "limit", "Limit", False), (3, "hits_addend", "Hits", False)),
    "Request": ((1, "domain", _BYTES, False), (2, "descriptors", "Descriptor", True), (3, "hits_addend", _UINT32, False)),
}
"""Number, name, type and whether there may be several: of the fields of RateLimitRequest (envoy/service/ratelimit/v3/rls.proto)."""


def read_request(body: bytes) -> Message:
    """Raises DecodeError."""
    return _request_class().FromString(body)


def text(raw: bytes) -> str:
    """As text, of which no two are the same for different bytes."""
    return raw.decode("utf-8", "surrogateescape")


@cache
def _request_class() -> Message:
    file = FileDescriptorProto(name="nodemesh/ratelimit.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, field, kind, many in fields:
            made = message.field.add(name=field, number=number, label=_MANY if many else _ONE)
            if isinstance(kind, str):
                made.type, made.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
            else:
                made.type = kind
    pool = DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Request"))
