"""containerd's API on its unix socket: the containers of those who use it without an engine before it, as nerdctl and ctr do.

containerd keeps containers in namespaces of its own making (one for each of its users); the kubelet's is not looked into.
What it does not know is networks: whether a container has its own is in its specification, its addresses are nowhere.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
import msgspec
from google.protobuf.message import DecodeError
from msgspec import Struct, field

from nodeagent.runtime.engines import containerd_pb2 as api
from nodeagent.runtime.engines.container import LABEL, Container, EngineError, is_labelled

log = logging.getLogger(__name__)
_CALL_S: Final = 10.0
_SUBSCRIBED_S: Final = 0.2
_MAX_ANSWER_BYTES: Final = 16 << 20
_SERVICE: Final = "/containerd.services"
_EVENTS: Final = r'topic~="^/(tasks/(create|start|exit|delete|paused|resumed)|containers/(create|update|delete))$"'
_NAME_LABEL: Final = "nerdctl/name"
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", _MAX_ANSWER_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)


class _Namespace(Struct, frozen=True):
    type: str = ""
    path: str = ""


class _Linux(Struct, frozen=True):
    namespaces: tuple[_Namespace, ...] | None = None
    cgroups_path: str = field(default="", name="cgroupsPath")

    @property
    def network(self) -> _Namespace | None:
        return next((one for one in self.namespaces or () if one.type == "network"), None)


class _Spec(Struct, frozen=True):
    linux: _Linux = _Linux()


_spec = msgspec.json.Decoder(_Spec)


class ContainerdClient:
    """See `Client`. To be made in the event loop that uses it. `exempt`: the namespaces of containerd that are not looked into."""

    def __init__(self, socket: Path, exempt: Iterable[str]) -> None:
        self._exempt = frozenset(exempt)
        self._channel = grpc.aio.insecure_channel(f"unix:{socket.absolute()}", options=_OPTIONS)

    async def answers(self) -> bool:
        """Whether containerd is there."""
        try:
            await self._namespaces()
        except EngineError:
            return False
        return True

    async def close(self) -> None:
        await self._channel.close(None)

    async def containers(self) -> tuple[Container, ...]:
        """See `Client`."""
        found = [await self._in_namespace(name) for name in await self._namespaces()]
        return tuple(container for containers in found for container in containers)

    async def events(self) -> AsyncIterator[None]:
        """See `Client`."""
        subscribe = self._channel.unary_stream(f"{_SERVICE}.events.v1.Events/Subscribe", None, None)
        call = subscribe(api.SubscribeRequest(filters=[_EVENTS]).SerializeToString())
        try:
            yield
            # containerd says nothing before something happens: when it began to listen is not known, but that it has by then.
            await asyncio.sleep(_SUBSCRIBED_S)
            yield
            async for _ in call:
                yield
        except grpc.aio.AioRpcError as error:
            raise _told(error) from error
        finally:
            call.cancel()

    async def _namespaces(self) -> list[str]:
        answer = await self._call("namespaces.v1.Namespaces/List", api.ListNamespacesRequest(), api.ListNamespacesResponse)
        return [one.name for one in answer.namespaces if one.name not in self._exempt]

    async def _in_namespace(self, namespace: str) -> list[Container]:
        name, value = LABEL
        request = api.ListContainersRequest(filters=[f'labels."{name}"=={value}'])
        answer = await self._call("containers.v1.Containers/List", request, api.ListContainersResponse, namespace)
        found = [await self._with_task(namespace, one) for one in answer.containers if is_labelled(one.labels)]
        return [container for container in found if container is not None]

    async def _with_task(self, namespace: str, one: api.Container) -> Container | None:
        """None if it has no process, or shares another's network."""
        try:
            linux = _spec.decode(one.spec.value).linux
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            # Not runc's, so there is no namespace of Linux to capture; and it keeps no other container from being captured.
            log.debug("the specification of %s/%s can't be read: %s", namespace, one.id, error)
            return None
        if linux.network is None or linux.network.path.startswith("/proc/"):
            return None
        try:
            request = api.GetTaskRequest(container_id=one.id)
            process = (await self._call("tasks.v1.Tasks/Get", request, api.GetTaskResponse, namespace)).process
        except _NotFoundError:
            return None
        # One that is created and not started holds its network, and has not said anything yet: the best moment to be captured.
        if not process.pid or process.status not in {api.CREATED, api.RUNNING, api.PAUSED, api.PAUSING}:
            return None
        return Container(
            id=f"{namespace}/{one.id}@{one.created_at.seconds}.{one.created_at.nanos:09}",
            name=one.labels.get(_NAME_LABEL) or one.id,
            labels=dict(one.labels),
            pid=process.pid,
            cgroup=cgroup_pattern(linux.cgroups_path, one.id),
            sandbox=linux.network.path,
        )

    async def _call(self, method: str, request: Any, answer: Any, namespace: str = "") -> Any:
        """Any: gRPC's stubs know no relation between the two messages. Raises EngineError."""
        call = self._channel.unary_unary(f"{_SERVICE}.{method}", None, None)
        metadata = (("containerd-namespace", namespace),) if namespace else ()
        try:
            return answer.FromString(await call(request.SerializeToString(), timeout=_CALL_S, metadata=metadata))
        except grpc.aio.AioRpcError as error:
            raise _told(error) from error
        except DecodeError as error:
            raise EngineError(f"{method}: answers what can't be read: {error}") from error


class _NotFoundError(EngineError):
    """There is no such thing any more."""


def _told(error: grpc.aio.AioRpcError) -> EngineError:
    words = f"{error.code().name}: {(error.details() or '')[:200]}"
    return _NotFoundError(words) if error.code() is grpc.StatusCode.NOT_FOUND else EngineError(words)


def cgroup_pattern(cgroups_path: str, container_id: str) -> str:
    """See `Container.cgroup`. `cgroups_path` is the specification's: a path, or `slice:prefix:name` where systemd makes the cgroup.

    Without one a runtime names the cgroup after the container.
    """
    path = cgroups_path or container_id
    if path.count(":") == 2:
        _, prefix, name = path.split(":")
        unit = f"{prefix}-{name}" if prefix else name
        path = unit if unit.endswith(".slice") else f"{unit}.scope"
    return f"/{re.escape(path.strip('/'))}/"
