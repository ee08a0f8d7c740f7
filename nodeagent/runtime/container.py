"""A container as its engine tells of it: the few fields that are used of Docker's answers, which Podman gives, too."""

from msgspec import Struct, field

from meshapi.wire import LABEL_DATAPLANE_MODE


class _State(Struct, frozen=True, rename="pascal"):
    running: bool = False
    paused: bool = False
    """Which is not running to Podman, and is to Docker: it holds its network all the same."""
    pid: int = 0


class _Settings(Struct, frozen=True, rename="pascal"):
    labels: dict[str, str] | None = None


class _Host(Struct, frozen=True, rename="pascal"):
    network_mode: str = ""


class _Endpoint(Struct, frozen=True):
    ipv4: str = field(default="", name="IPAddress")
    ipv6: str = field(default="", name="GlobalIPv6Address")


class _Networks(Struct, frozen=True, rename="pascal"):
    sandbox_key: str = ""
    networks: dict[str, _Endpoint] | None = None


class Container(Struct, frozen=True, rename="pascal"):
    """What the engine says of one container."""

    id: str
    name: str = ""
    state: _State = _State()
    config: _Settings = _Settings()
    host_config: _Host = _Host()
    network_settings: _Networks = _Networks()

    @property
    def labels(self) -> dict[str, str]:
        return self.config.labels or {}

    @property
    def joins(self) -> bool:
        """Whether it runs, is labelled, and has a network of its own: one that shares another's is that one's."""
        shares = self.host_config.network_mode.partition(":")[0] in {"host", "container", "none"}
        return (
            (self.state.running or self.state.paused)
            and self.state.pid > 0
            and not shares
            and self.labels.get(LABEL_DATAPLANE_MODE) == "ambient"
        )

    @property
    def addresses(self) -> tuple[str, ...]:
        endpoints = (self.network_settings.networks or {}).values()
        return tuple(address for one in endpoints for address in (one.ipv4, one.ipv6) if address)
