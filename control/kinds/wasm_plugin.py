"""Istio's WasmPlugin: a module that requests pass, where it comes from, and where among the filters it stands."""

from enum import StrEnum
from typing import Any, ClassVar

from msgspec import field

from control.kinds.core import Object
from control.kinds.metadata import Kind
from control.kinds.routing import Strict
from control.kinds.security import PolicyTarget, Selector


class PluginPhase(StrEnum):
    """Ahead of what authenticates, or of what authorizes, or of what counts; unspecified: right ahead of the router."""

    UNSPECIFIED_PHASE = "UNSPECIFIED_PHASE"
    AUTHN = "AUTHN"
    AUTHZ = "AUTHZ"
    STATS = "STATS"


class FailStrategy(StrEnum):
    """What becomes of requests while the module can't be fetched, or when it has failed."""

    FAIL_CLOSE = "FAIL_CLOSE"
    FAIL_OPEN = "FAIL_OPEN"
    FAIL_RELOAD = "FAIL_RELOAD"


class PluginType(StrEnum):
    UNSPECIFIED_PLUGIN_TYPE = "UNSPECIFIED_PLUGIN_TYPE"
    HTTP = "HTTP"
    NETWORK = "NETWORK"


class TrafficMode(StrEnum):
    UNDEFINED = "UNDEFINED"
    CLIENT = "CLIENT"
    SERVER = "SERVER"
    CLIENT_AND_SERVER = "CLIENT_AND_SERVER"


class ValueFrom(StrEnum):
    INLINE = "INLINE"
    HOST = "HOST"


class PluginPort(Strict, frozen=True):
    number: int


class TrafficSelector(Strict, frozen=True):
    mode: TrafficMode = TrafficMode.UNDEFINED
    ports: tuple[PluginPort, ...] = ()


class EnvVar(Strict, frozen=True):
    name: str
    value_from: ValueFrom = ValueFrom.INLINE
    value: str = ""


class VMConfig(Strict, frozen=True):
    env: tuple[EnvVar, ...] = ()


class WasmPluginSpec(Strict, frozen=True):
    """`url` is empty in what stands in for an object that can't be understood: there is no module, and requests fail."""

    url: str
    selector: Selector | None = None
    target_ref: PolicyTarget | None = None
    target_refs: tuple[PolicyTarget, ...] = ()
    sha256: str = ""
    image_pull_policy: str = ""
    image_pull_secret: str = ""
    verification_key: str = ""
    plugin_config: dict[str, Any] = field(default_factory=dict)
    plugin_name: str = ""
    phase: PluginPhase = PluginPhase.UNSPECIFIED_PHASE
    priority: int = 0
    fail_strategy: FailStrategy = FailStrategy.FAIL_CLOSE
    vm_config: VMConfig = VMConfig()
    match: tuple[TrafficSelector, ...] = ()
    type: PluginType = PluginType.UNSPECIFIED_PLUGIN_TYPE


class WasmPlugin(Object, frozen=True, rename="camel", kw_only=True):
    kind_of: ClassVar[Kind] = Kind.WASM_PLUGIN
    spec: WasmPluginSpec

    @property
    def labels(self) -> dict[str, str] | None:
        """Of the proxies that it is for; None where it says none."""
        return self.spec.selector.match_labels if self.spec.selector is not None else None

    @property
    def targets(self) -> tuple[PolicyTarget, ...]:
        """What it is for, where that is not proxies by their labels."""
        return (*((self.spec.target_ref,) if self.spec.target_ref else ()), *self.spec.target_refs)
