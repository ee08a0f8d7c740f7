"""CNI network configurations as text: our plugin put at the end of the chain, and taken out again. Pure functions.

What a runtime takes is what libcni takes: https://github.com/containernetworking/cni/blob/main/SPEC.md
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

PLUGIN: Final = "nodemesh-cni"
"""The plugin's type, and so the name of its file."""
LIST_SUFFIX: Final = ".conflist"
SINGLE_SUFFIXES: Final = (".conf", ".json")
CONVERTED_SUFFIX: Final = f".nodemesh{LIST_SUFFIX}"
"""Behind the whole name of the file that was converted: so it stands where that stood, and is nobody else's."""
MAX_TEXT_BYTES: Final = 1 << 20
_VERSIONS: Final = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
"""In which results are passed along a chain in the form that the plugin reads."""
_UNCHAINED_VERSIONS: Final = ("", "0.1.0", "0.2.0")
_CONVERTED_VERSION: Final = "0.3.1"

Object = dict[str, Any]
"""A JSON object of others, with whatever they have in it."""


class ConflistError(ValueError):
    """A configuration that no runtime takes, or that the plugin can't be put into; the text says why."""


class CNIPlaces(Struct, frozen=True):
    """Where the container runtime looks for plugins and for its configuration."""

    bin_dir: Path
    conf_dir: Path


class PluginEntry(Struct, frozen=True):
    """Our plugin's part of a configuration. The plugin reads it: see plugin/src/configuration.rs."""

    socket: str
    exempt_namespaces: tuple[str, ...] = ()
    deadline_s: int = 30

    def as_object(self) -> Object:
        """As it stands in the file."""
        entry: Object = {"type": PLUGIN, "socket": self.socket, "deadline_s": self.deadline_s}
        return entry | ({"exempt_namespaces": list(self.exempt_namespaces)} if self.exempt_namespaces else {})


def candidates(names: Iterable[str]) -> list[str]:
    """The files that runtimes look at, in their order: of these they take the first that is a configuration."""
    return sorted(name for name in names if name.endswith((LIST_SUFFIX, *SINGLE_SUFFIXES)) and not name.startswith("."))


def is_list(name: str) -> bool:
    """Whether a file of that name holds a list of plugins, and not a single one."""
    return name.endswith(LIST_SUFFIX)


def has_plugin(name: str, text: bytes) -> bool:
    """Whether our plugin is in a configuration; raises ConflistError."""
    return is_list(name) and any(plugin["type"] == PLUGIN for plugin in _plugins(_parsed(text)))


def with_plugin(name: str, text: bytes, entry: PluginEntry) -> bytes:
    """The list with our plugin at the end, and only there; a single plugin's file becomes a list. Raises ConflistError."""
    found = _parsed(text)
    network = _checked(found) if is_list(name) else _converted(found)
    if network["cniVersion"] not in _VERSIONS:
        raise ConflistError(f"CNI version {network['cniVersion']!r} is none of {', '.join(_VERSIONS)}")
    others = [plugin for plugin in _plugins(network) if plugin["type"] != PLUGIN]
    if not others:
        raise ConflistError("has no plugin that makes a network")
    return _rendered(network | {"plugins": [*others, entry.as_object()]})


def without_plugin(text: bytes) -> bytes:
    """The list without our plugin; raises ConflistError."""
    network = _parsed(text)
    return _rendered(network | {"plugins": [plugin for plugin in _plugins(network) if plugin["type"] != PLUGIN]})


def converts_to(single: bytes, converted: bytes) -> bool:
    """Whether a list, but for our plugin, says what a single plugin's file says: then that may take its place again."""
    try:
        return _parsed(without_plugin(converted)) == _converted(_parsed(single))
    except ConflistError:
        return False


def _converted(single: Object) -> Object:
    """As runtimes themselves make a list of a single plugin's configuration."""
    name, version = single.get("name"), single.get("cniVersion", "")
    if not isinstance(single.get("type"), str) or not single["type"]:
        raise ConflistError("has no `type`: is it a list?")
    if not isinstance(name, str) or not name:
        raise ConflistError("has no `name`")
    plugin = {key: value for key, value in single.items() if key not in {"name", "cniVersion"}}
    return {"cniVersion": _CONVERTED_VERSION if version in _UNCHAINED_VERSIONS else version, "name": name, "plugins": [plugin]}


def _checked(network: Object) -> Object:
    if not isinstance(network.get("name"), str) or not network["name"]:
        raise ConflistError("has no `name`")
    if network.get("cniVersion", "") in _UNCHAINED_VERSIONS:
        raise ConflistError("is of a CNI version that knows no chained plugins")
    return network


def _plugins(network: Object) -> list[Object]:
    plugins = network.get("plugins")
    if not isinstance(plugins, list) or not all(isinstance(plugin, dict) and isinstance(plugin.get("type"), str) for plugin in plugins):
        raise ConflistError("`plugins` is no list of plugins with a `type` each")
    return plugins


def _parsed(text: bytes) -> Object:
    if len(text) > MAX_TEXT_BYTES:
        raise ConflistError(f"is larger than {MAX_TEXT_BYTES} bytes")
    try:
        found = json.loads(text, parse_constant=_no_json)
    except (ValueError, RecursionError) as error:
        raise ConflistError(f"is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConflistError("is no JSON object")
    return found


def _no_json(word: str) -> None:
    raise ValueError(f"{word} is no number")


def _rendered(network: Mapping[str, Any]) -> bytes:
    return json.dumps(network, indent=2, ensure_ascii=False).encode() + b"\n"
