"""Patches that only Envoy can judge: a real one refuses them, and all else goes on."""

import asyncio
from pathlib import Path

from control.kinds import Kind
from control.model.settings import MeshSettings
from control.model.status import describe
from control.source import Synced
from tests.control.envoy.patches.driven import Driven, driven
from tests.control.envoy.patches.envoy_filters import envoy_filter, inserted, lua
from tests.control.envoy.test_waypoint import GATEWAY, NODE, service
from tests.control.envoy.wasm.modules import MARKS, write
from tests.control.envoy.wasm.test_plugins import plugin
from tests.control.model.builders import Config

ANSWER = """
    kind: VirtualService
    apiVersion: networking.istio.io/v1
    metadata: {name: cart, namespace: shop}
    spec: {hosts: [cart], http: [{directResponse: {status: 200}}]}
"""
BASE = "\n---\n".join((GATEWAY, NODE, service("cart", "10.96.0.1"), ANSWER))
DENY = """
    kind: AuthorizationPolicy
    apiVersion: security.istio.io/v1
    metadata: {name: no-one, namespace: shop}
    spec:
      targetRefs: [{kind: Service, group: "", name: cart}]
      action: DENY
      rules: [{to: [{operation: {paths: ["%s"]}}]}]
"""


def marked(text: str) -> str:
    return envoy_filter("mark", inserted(lua(f'function envoy_on_response(handle) handle:headers():add("x-mark", "{text}") end')))


BROKEN = envoy_filter("mark", inserted(lua("function envoy_on_response(")))


def status(found: Driven, name: str = "mark", kind: Kind = Kind.ENVOY_FILTER) -> str:
    described = describe(found.config.mesh, kind, "shop", name)
    return described.summary if described is not None else ""


async def told(found: Driven, words: str, name: str = "mark") -> None:
    async with asyncio.timeout(20):
        while words not in status(found, name):  # noqa: ASYNC110 -- polls what has no event, with a deadline
            await asyncio.sleep(0.02)


async def test_a_patch_that_envoy_refuses_holds_up_nothing(tmp_path: Path) -> None:
    config = Config(BASE)
    config.mesh.apply([Synced()])
    async with driven(tmp_path, config) as found:
        await found.until(200)
        found.config.write("mark.yaml", marked("first"))
        await found.until(200, x_mark="first")
        found.config.write("mark.yaml", BROKEN)
        await told(found, "its former form holds")
        assert "Envoy says" in status(found)
        await found.until(200, x_mark="first")
        # A policy that comes after it takes effect, and what held before the patch still does.
        found.config.write("policy.yaml", DENY % "/secret")
        await found.until(403, "/secret")
        await found.until(200, "/open", x_mark="first")
        found.config.write("mark.yaml", marked("second"))
        await found.until(200, "/open", x_mark="second")
        assert "Envoy says" not in status(found)
        # One that is new and is refused has no effect, and leaves the others alone.
        found.config.write("new.yaml", BROKEN.replace('"mark"', '"new"'))
        await told(found, "has no effect", "new")
        found.config.write("policy.yaml", DENY % "/other")
        await found.until(403, "/other")
        await found.until(200, "/secret", x_mark="second")


async def test_a_plugin_without_its_module_fails_requests(tmp_path: Path) -> None:
    config = Config(BASE, settings=MeshSettings(wasm_sources=frozenset({str(tmp_path)})))
    config.mesh.apply([Synced()])
    file, _ = write(tmp_path, "marks", MARKS)
    async with driven(tmp_path, config) as found:
        await found.until(200)
        found.config.write("module.yaml", plugin("module", f"file://{tmp_path}/nowhere.wasm", "cart"))
        await found.until(503)
        assert "requests are denied in its place: Envoy says" in status(found, "module", Kind.WASM_PLUGIN)
        found.config.write("module.yaml", plugin("module", f"file://{tmp_path}/nowhere.wasm", "cart", failStrategy="FAIL_OPEN"))
        await found.until(200)
        found.config.write("module.yaml", plugin("module", f"file://{file}", "cart"))
        await found.until(200)
        assert "Envoy says" not in status(found, "module", Kind.WASM_PLUGIN)


async def test_after_a_restart_of_the_controller_what_can_not_be_known_is_denied(tmp_path: Path) -> None:
    config = Config(BASE)
    config.write("mark.yaml", BROKEN)
    async with driven(tmp_path, config) as found:
        await found.until(403)
        await told(found, "requests are denied in its place")
        found.config.write("mark.yaml", marked("mended"))
        await found.until(200, x_mark="mended")
