"""Checks of EnvoyFilter: each patch must be one that Envoy can be given, or none of the object is."""

from collections.abc import Iterator
from typing import Final

from control.envoy.patches.allowed import PatchError
from control.envoy.patches.reading import read_patch
from control.kinds import EnvoyFilter
from control.kinds.envoy_filter import ConfigPatch, PatchContext, ProxyMatch
from control.validation import regex
from control.validation.core_checks import Path, attempt, label_remarks
from control.validation.finding import Remark, warning

_MAX_PATCHES: Final = 100
_SIDECARS: Final = frozenset((PatchContext.SIDECAR_INBOUND, PatchContext.SIDECAR_OUTBOUND))


def envoy_filter_remarks(item: EnvoyFilter) -> Iterator[Remark]:
    spec = item.spec
    if spec.workload_selector is not None:
        if spec.target_refs:
            yield Remark(("spec", "workloadSelector"), "has both a workloadSelector and targetRefs", "keep one of them")
        if not spec.workload_selector.labels:
            yield Remark(("spec", "workloadSelector"), "a selector without labels", "leave it out to mean every proxy")
        yield from label_remarks(spec.workload_selector.labels, ("spec", "workloadSelector", "labels"))
    if not spec.config_patches:
        yield Remark(("spec",), "patches nothing", "give it configPatches")
    if len(spec.config_patches) > _MAX_PATCHES:
        yield Remark(("spec", "configPatches"), f"more than {_MAX_PATCHES} patches", "write several objects")
        return
    for index, patch in enumerate(spec.config_patches):
        yield from _patch_remarks(patch, ("spec", "configPatches", index))


def _patch_remarks(patch: ConfigPatch, path: Path) -> Iterator[Remark]:
    try:
        read_patch(patch)
    except PatchError as error:
        yield Remark(path, str(error)[:500])
    if patch.match.context in _SIDECARS:
        hint = "WAYPOINT is the context of what is in front of a service here, GATEWAY that of the mesh's edge"
        yield warning((*path, "match", "context"), f"{patch.match.context} never matches: there are no sidecars", hint)
    yield from _proxy_remarks(patch.match.proxy, (*path, "match", "proxy"))


def _proxy_remarks(match: ProxyMatch, path: Path) -> Iterator[Remark]:
    if match.proxy_version:
        yield from attempt(regex.regex, match.proxy_version, (*path, "proxyVersion"))
        yield warning((*path, "proxyVersion"), "never matches: proxies here have no version of Istio's", "leave it out")
    for key in match.metadata:
        if key not in {"NAMESPACE", "SERVICE_ACCOUNT", "NAME"}:
            yield warning((*path, "metadata", key), "never matches: no proxy here says such a thing of itself")
