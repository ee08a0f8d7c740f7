"""Checks of WasmPlugin: a module that could never be had, or would have more than its requests, is refused."""

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import SplitResult, urlsplit

import msgspec

from control.kinds import WasmPlugin
from control.kinds.wasm_plugin import PluginType, ValueFrom, WasmPluginSpec
from control.validation import values
from control.validation.core_checks import Path, attempt, attempt_port
from control.validation.finding import Remark, warning
from control.validation.policy_checks import selector_remarks

_SHA256: Final = re.compile(r"[0-9a-f]{64}\Z", re.ASCII)
_PATH: Final = re.compile(r"/[!-~]{1,1024}\Z", re.ASCII)
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}\Z", re.ASCII)
_MAX_ENV: Final = 256
_MAX_CONFIG_BYTES: Final = 64 * 1024


def wasm_plugin_remarks(item: WasmPlugin) -> Iterator[Remark]:
    spec = item.spec
    yield from selector_remarks(spec.selector)
    if spec.selector is not None and item.targets:
        yield Remark(("spec", "selector"), "has both a selector and targetRefs", "keep one of them")
    yield from _module_remarks(spec)
    if spec.type is PluginType.NETWORK:
        yield Remark(("spec", "type"), "NETWORK is not supported", "leave it out: requests pass the module")
    if len(msgspec.json.encode(spec.plugin_config)) > _MAX_CONFIG_BYTES:
        yield Remark(("spec", "pluginConfig"), f"more than {_MAX_CONFIG_BYTES // 1024} KiB")
    yield from _vm_remarks(item)
    for index, match in enumerate(spec.match):
        for at, port in enumerate(match.ports):
            yield from attempt_port(port.number, ("spec", "match", index, "ports", at, "number"))


def _module_remarks(spec: WasmPluginSpec) -> Iterator[Remark]:
    yield from attempt(module_address, spec.url, ("spec", "url"))
    if spec.sha256 and not _SHA256.match(spec.sha256):
        yield Remark(("spec", "sha256"), f"{spec.sha256[:80]!r} is no SHA-256: 64 digits in lower-case hexadecimal")
    elif not spec.sha256 and spec.url.startswith("http"):
        yield Remark(("spec", "sha256"), "a module that is fetched needs its SHA-256: else whoever answers decides what runs")
    for name, given in (("imagePullSecret", spec.image_pull_secret), ("imagePullPolicy", spec.image_pull_policy)):
        if given:
            yield warning(("spec", name), "does nothing: modules are no images here")
    if spec.verification_key:
        yield Remark(("spec", "verificationKey"), "is not supported: nobody would verify by it", "sha256 says which module it must be")


def _vm_remarks(item: WasmPlugin) -> Iterator[Remark]:
    path: Path = ("spec", "vmConfig", "env")
    if len(item.spec.vm_config.env) > _MAX_ENV:
        yield Remark(path, f"more than {_MAX_ENV} variables")
    names: set[str] = set()
    for index, variable in enumerate(item.spec.vm_config.env):
        if not _NAME.match(variable.name):
            yield Remark((*path, index, "name"), f"{variable.name[:80]!r} is no name of a variable")
        if variable.name in names:
            yield Remark((*path, index, "name"), f"{variable.name[:80]} stands here twice")
        names.add(variable.name)
        if variable.value_from is ValueFrom.HOST:
            yield Remark((*path, index, "valueFrom"), "the environment of the proxy is nobody's to read", "write the value (INLINE)")


def module_address(text: str) -> SplitResult:
    """Where a module is: a file of the proxy's host, or an address of http or https. Raises ValueError."""
    if "://" not in text or text.startswith("oci://"):
        raise ValueError(f"{text[:120]!r} is an image, which is not pulled here: serve the module by https, and say its sha256")
    try:
        found = urlsplit(text)
        port = found.port
    except ValueError as error:
        raise ValueError(f"{text[:120]!r} is no address") from error
    if found.scheme not in {"file", "http", "https"}:
        raise ValueError(f"{text[:120]!r} is neither of file://, http:// nor https://")
    if found.query or found.fragment or found.username is not None or not _PATH.match(found.path):
        raise ValueError(f"{text[:120]!r} is no plain address: a host and a path")
    if found.scheme == "file":
        if found.netloc or any(part in {"", ".", ".."} for part in found.path[1:].split("/")):
            raise ValueError(f"{text[:120]!r} is no absolute path of a file")
        return found
    if port == 0:
        raise ValueError(f"{text[:120]!r} has no port that could be called")
    values.host(found.hostname or "")
    if (found.hostname or "").startswith("*"):
        raise ValueError(f"{text[:120]!r} names no single host")
    return found
