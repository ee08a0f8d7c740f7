"""What translation gives: resources of Envoy with the objects that they come from, and the lists that say which there are."""

from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Final

from msgspec import Struct

from control.envoy.messages import TYPE_PREFIX, Message
from control.kinds import ObjectKey
from control.resources import Resource, TypeURL

CLUSTER: Final = TypeURL(f"{TYPE_PREFIX}envoy.config.cluster.v3.Cluster")
ENDPOINTS: Final = TypeURL(f"{TYPE_PREFIX}envoy.config.endpoint.v3.ClusterLoadAssignment")
LISTENER: Final = TypeURL(f"{TYPE_PREFIX}envoy.config.listener.v3.Listener")
ROUTES: Final = TypeURL(f"{TYPE_PREFIX}envoy.config.route.v3.RouteConfiguration")
SECRET: Final = TypeURL(f"{TYPE_PREFIX}envoy.extensions.transport_sockets.tls.v3.Secret")
"""Not of the stream of configuration: secrets come to the process beside an Envoy by a stream of their own."""
SERVED: Final = (CLUSTER, ENDPOINTS, LISTENER, ROUTES)
"""In the order in which an Envoy must get them: what is named comes before what names it."""


class Problem(Struct, frozen=True, order=True):
    """What an object asks for and does not get, in words for its owner."""

    object: ObjectKey
    what: str


class Built(Struct, frozen=True):
    """A resource. `sources` are the objects that shaped it: where Envoy refuses it, they are told.

    `problems`: what objects ask for in vain.
    """

    resource: Resource
    sources: tuple[ObjectKey, ...] = ()
    problems: tuple[Problem, ...] = ()


class Recipe(Struct, frozen=True):
    """Which translator makes a resource: `translator(world, *args)` returns its Built, or None where it has gone meanwhile."""

    type_url: TypeURL
    name: str
    translator: Callable[..., Built | None]
    args: tuple[Any, ...] = ()
    """Hashable."""


def built(name: str, message: Message, sources: tuple[ObjectKey, ...] = (), problems: tuple[Problem, ...] = ()) -> Built:
    """A message as a resource, serialized once; equal messages have equal versions, in whatever run."""
    body = bytes(message.SerializeToString(deterministic=True))
    return Built(
        Resource(name, blake2b(body, digest_size=8).hexdigest(), body), tuple(dict.fromkeys(sources)), tuple(dict.fromkeys(problems))
    )
