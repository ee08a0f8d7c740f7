"""The delta discovery messages of xDS, as immutable values; the protobuf classes live in a private descriptor pool.

A private pool, because the process may also hold other packages' copies of Envoy's descriptors (OpenTelemetry's, Google's),
and two copies in the default pool refuse each other.
"""

from functools import cache
from importlib.resources import files
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from msgspec import Struct

DELTA_METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"


class DiscoveryError(ValueError):
    """Bytes that are no discovery message."""


class Node(Struct, frozen=True):
    """Who asks. `metadata` holds only the string-valued entries."""

    id: str = ""
    metadata: dict[str, str] = {}


class Request(Struct, frozen=True):
    """A DeltaDiscoveryRequest. `error` is the NACK's message, None in an ACK or a subscription."""

    type_url: str
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    initial_versions: dict[str, str] = {}
    nonce: str = ""
    error: str | None = None
    node: Node | None = None


class Resource(Struct, frozen=True):
    """One resource: `body` is the serialized message inside the Any, `aliases` the other keys that name it.

    `other_type` is what the Any says that it is, None where that is the type of its response, as it must be.
    """

    name: str
    version: str
    body: bytes
    aliases: tuple[str, ...] = ()
    other_type: str | None = None


class Response(Struct, frozen=True):
    """A DeltaDiscoveryResponse."""

    type_url: str
    nonce: str
    resources: tuple[Resource, ...] = ()
    removed: tuple[str, ...] = ()
    system_version: str = ""


@cache
def _pool() -> DescriptorPool:
    pool = DescriptorPool()
    descriptors = FileDescriptorSet.FromString(files("meshapi.proto").joinpath("xds.binpb").read_bytes())
    for file in descriptors.file:
        pool.Add(file)
    return pool


@cache
def message_class(name: str) -> Any:
    """The protobuf class of an xDS message by full name. Any: the pool is private, so no stubs exist."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(name))


@cache
def _request_class() -> Any:
    return message_class("envoy.service.discovery.v3.DeltaDiscoveryRequest")


@cache
def _response_class() -> Any:
    return message_class("envoy.service.discovery.v3.DeltaDiscoveryResponse")


def encode_request(request: Request) -> bytes:
    """Serializes a request."""
    message = _request_class()(
        type_url=request.type_url,
        resource_names_subscribe=request.subscribe,
        resource_names_unsubscribe=request.unsubscribe,
        initial_resource_versions=request.initial_versions,
        response_nonce=request.nonce,
    )
    if request.error is not None:
        message.error_detail.code = 3
        message.error_detail.message = request.error
    if request.node is not None:
        message.node.id = request.node.id
        message.node.metadata.update(request.node.metadata)
    return bytes(message.SerializeToString())


def decode_request(body: bytes) -> Request:
    """Parses a request; raises DiscoveryError on bytes that are none."""
    try:
        message = _request_class().FromString(body)
    except DecodeError as error:
        raise DiscoveryError(f"no DeltaDiscoveryRequest: {error}") from error
    node = None
    if message.HasField("node"):
        strings = {key: value.string_value for key, value in message.node.metadata.fields.items() if value.HasField("string_value")}
        node = Node(id=message.node.id, metadata=strings)
    return Request(
        type_url=message.type_url,
        subscribe=tuple(message.resource_names_subscribe),
        unsubscribe=tuple(message.resource_names_unsubscribe),
        initial_versions=dict(message.initial_resource_versions),
        nonce=message.response_nonce,
        error=message.error_detail.message if message.HasField("error_detail") else None,
        node=node,
    )


def encode_response(response: Response) -> bytes:
    """Serializes a response."""
    message = _response_class()(
        type_url=response.type_url,
        nonce=response.nonce,
        removed_resources=response.removed,
        system_version_info=response.system_version,
    )
    for resource in response.resources:
        entry = message.resources.add(name=resource.name, version=resource.version, aliases=resource.aliases)
        entry.resource.type_url = response.type_url if resource.other_type is None else resource.other_type
        entry.resource.value = resource.body
    return bytes(message.SerializeToString())


def decode_response(body: bytes) -> Response:
    """Parses a response; raises DiscoveryError on bytes that are none."""
    try:
        message = _response_class().FromString(body)
    except DecodeError as error:
        raise DiscoveryError(f"no DeltaDiscoveryResponse: {error}") from error
    return Response(
        type_url=message.type_url,
        nonce=message.nonce,
        resources=tuple(_resource(entry, message.type_url) for entry in message.resources),
        removed=tuple(message.removed_resources),
        system_version=message.system_version_info,
    )


def _resource(entry: Any, type_url: str) -> Resource:
    """Any: a message of the private pool."""
    said = entry.resource.type_url
    return Resource(entry.name, entry.version, entry.resource.value, tuple(entry.aliases), None if said == type_url else said)
