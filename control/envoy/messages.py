"""Envoy's messages. They live in a private pool, because another package's copy of them in the default pool would refuse this one."""

from functools import cache
from importlib.resources import files
from typing import Any, TypeAlias

from google.protobuf import message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool

Message: TypeAlias = Any
"""A message of the private pool, for which there are no stubs. What was handed out as part of a resource is not changed any more."""
TYPE_PREFIX = "type.googleapis.com/"


@cache
def pool() -> DescriptorPool:
    """All of Envoy's v3 messages; loaded with the first one that is asked for."""
    found = DescriptorPool()
    descriptors = FileDescriptorSet.FromString(files("control.envoy").joinpath("envoy.binpb").read_bytes())
    for file in descriptors.file:
        found.Add(file)
    return found


@cache
def message_class(name: str) -> Message:
    """The class of a message by its full name, such as `envoy.config.cluster.v3.Cluster`; KeyError if Envoy has none of this name.

    Typed as anything: no stubs exist for a private pool.
    """
    return message_factory.GetMessageClass(pool().FindMessageTypeByName(name))


def new(name: str, /, **fields: object) -> Message:
    """A message by its full name, with these fields."""
    return message_class(name)(**fields)


def packed(message: Message) -> Message:
    """A message inside an Any of the same pool, serialized deterministically, so that equal configuration has equal bytes."""
    return new(
        "google.protobuf.Any",
        type_url=TYPE_PREFIX + message.DESCRIPTOR.full_name,
        value=message.SerializeToString(deterministic=True),
    )
