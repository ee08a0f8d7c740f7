"""`meshctl get` against a mesh behind a real admin socket."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import yaml
from aiohttp import web
from click.testing import CliRunner, Result

from control.admin.server import open_admin_socket
from control.cli.get import get
from control.model.status import objects
from tests.control.model.builders import Config

GOOD = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n"
BAD = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: shop}
spec: {rules: [{form: []}], action: DENI}
"""
Run = Callable[..., Result]


@pytest.fixture
def config() -> Config:
    return Config(GOOD)


@pytest.fixture
def run(config: Config, tmp_path: Path) -> Iterator[Run]:
    """Runs the command while a thread serves the socket."""

    async def answer(request: web.Request) -> web.Response:
        query = request.query
        return web.Response(body=msgspec.json.encode(objects(config.mesh, query["kind"], query["namespace"], query["name"])))

    async def serve() -> None:
        app = web.Application()
        app.add_routes([web.get("/objects", answer)])
        runner = await open_admin_socket(app, tmp_path / "admin.sock")
        started.set()
        await stop.wait()
        await runner.cleanup()

    loop, stop, started = asyncio.new_event_loop(), asyncio.Event(), threading.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert started.wait(10)
    yield lambda *arguments: CliRunner().invoke(get, ["--admin-socket", str(tmp_path / "admin.sock"), *arguments])
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    loop.close()


def test_all_is_well(run: Run) -> None:
    result = run()
    assert result.exit_code == 0
    assert result.output.split()[-5:] == ["-", "shop", "yes", "-", "a.yaml:1"]


def test_what_was_refused_is_said(run: Run, config: Config) -> None:
    config.write("b.yaml", BAD)
    result = run("authorizationpolicies")
    assert result.exit_code == 1
    assert "no" in result.output.split()
    assert "line 5" in result.output
    assert "(and 1 more)" in result.output


def test_yaml_has_the_details_under_status(run: Run, config: Config) -> None:
    config.write("b.yaml", BAD)
    result = run("ap", "p", "-n", "shop", "-o", "yaml")
    manifest = yaml.safe_load(result.output)
    assert manifest["spec"]["action"] == "DENI"
    accepted = manifest["status"]["conditions"][0]
    assert (accepted["type"], accepted["status"], accepted["reason"]) == ("Accepted", "False", "Invalid")
    assert "invalid enum value 'DENI'" in accepted["message"]
    assert "unknown field 'form'" in accepted["message"]


def test_json_of_several_is_a_list(run: Run, config: Config) -> None:
    config.write("b.yaml", GOOD.replace("shop", "other"))
    assert [one["metadata"]["name"] for one in json.loads(run("ns", "-o", "json").output)] == ["other", "shop"]


def test_files_that_can_not_be_read_are_said_beside(run: Run, config: Config) -> None:
    config.write("c.yaml", "a: b: c")
    result = run("ns")
    assert result.exit_code == 1
    assert "c.yaml:1: error: not YAML" in result.stderr
