"""`meshctl` as people and scripts use it: a real controller process over a directory of YAML, asked and told by the commands."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from control.cli.main import main
from meshapi.bundle import decode_bundle
from tests.control.agent import Agent

CONFIG = """
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: cart, namespace: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: cart-1, namespace: shop}
spec: {nodeName: n1, serviceAccountName: cart, containers: [{name: app, image: app}]}
status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadGroup
metadata: {name: vms, namespace: shop}
spec: {template: {serviceAccount: cart}}
"""
CART = "spiffe://cluster.local/ns/shop/sa/cart"
MESHCTL = [sys.executable, "-c", "from control.cli.main import main; main()"]
WAIT_S = 20.0


class Served:
    """A controller process and its sockets."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config"
        self.config.mkdir()
        (self.config / "mesh.yaml").write_text(CONFIG)
        self.socket = path / "admin.sock"
        self.log = (path / "log").open("wb")
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        options = ["--config", self.config, "--state", self.path / "state", "--admin-socket", self.socket, "--listen", "127.0.0.1"]
        ports = ["--token-port", "0", "--agent-port", "0", "--metrics-port", "0", "--metrics-listen", "127.0.0.1"]
        return subprocess.Popen([*MESHCTL, "serve", *options, *ports], stdout=self.log, stderr=self.log, env=dict(os.environ))

    def await_ready(self) -> None:
        deadline_s = time.monotonic() + WAIT_S
        while self.run("status").exit_code != 0:
            assert self.process.poll() is None, (self.path / "log").read_text()
            assert time.monotonic() < deadline_s, (self.path / "log").read_text()
            time.sleep(0.05)

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, [*arguments, "--admin-socket", str(self.socket)], catch_exceptions=False)

    def json(self, *arguments: str):
        result = self.run(*arguments, "-o", "json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def ports(self) -> tuple[int, int]:
        """The two ports, from the log line that tells them."""
        words = next(line for line in (self.path / "log").read_text().splitlines() if "serving nodes on port" in line).split()
        numbers = [int(word) for word in words if word.isdigit()]
        return numbers[-2], numbers[-1]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WAIT_S)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("meshctl"))
    try:
        served.await_ready()
        yield served
    finally:
        if served.process.poll() is None:
            assert served.stop() == 0, (served.path / "log").read_text()
        served.log.close()
    log = (served.path / "log").read_text()
    assert "Traceback" not in log, log


def test_a_node_joins_with_a_token_and_the_pem_of_the_root(served: Served) -> None:
    token = served.run("token", "create", "--node", "n1", "--ttl", "5m").stdout.strip()
    root = served.run("root").stdout
    assert x509.load_pem_x509_certificate(root.encode())
    agent = Agent("n1", root.encode(), *served.ports())

    async def join() -> list[str]:
        await agent.join(token)
        return await agent.certificate(CART)

    chain = asyncio.run(join())
    assert len(chain) == 3
    listed = {one["id"]: one for one in served.json("token", "list")}
    used = listed[token.split(".")[1]]
    assert used["used_s"] is not None
    assert "secret" not in json.dumps(used)


def test_a_bundle_is_private_and_joins_its_machine(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "bundle"
    file.write_text("of before")
    file.chmod(0o644)
    made = served.run("vm", "create", "--group", "shop/vms", "--name", "one", "--controller", "10.1.2.3:7", "-o", str(file))
    assert made.exit_code == 0, made.output
    assert "nmj1" not in made.output, "the token is in the file only"
    assert file.stat().st_mode & 0o777 == 0o600
    bundle = decode_bundle(file.read_bytes())
    assert (bundle.node, bundle.accounts) == ("vm_one_shop_vms", {"shop/vms": "cart"})
    assert (bundle.controller.host, bundle.controller.certificate_port) == ("10.1.2.3", 7)
    assert bundle.controller.server_name == "istiod.istio-system.svc", "a name that its certificate has"
    printed = served.run("vm", "create", "--group", "shop/vms", "--name", "one", "-o", "-")
    assert decode_bundle(printed.stdout.encode()).node == bundle.node
    agent = Agent(bundle.node, bundle.roots_pem.encode(), *served.ports())
    asyncio.run(agent.join(bundle.token))
    assert agent.chain_pem


@pytest.mark.parametrize(
    ("options", "said", "code"),
    [
        (["--group", "shop/none"], "there is no workloadgroup shop/none", 1),
        (["--group", "shop"], "is no name", 2),
        (["--group", "shop/vms", "--group", "shop/vms"], "each once", 2),
        (["--group", "shop/vms", "--name", "A_b"], "is no name", 2),
        (["--group", "shop/vms", "--controller", "h:0"], "must be host or host:port", 2),
        (["--group", "shop/vms", "--ttl", "8d"], "a token lives", 1),
    ],
)
def test_no_bundle_without_its_group_and_a_name(served: Served, tmp_path: Path, options: list[str], said: str, code: int) -> None:
    made = served.run("vm", "create", *options, "-o", str(tmp_path / "bundle"))
    assert made.exit_code == code
    assert said in made.output
    assert not list(tmp_path.iterdir())


def test_tokens_are_listed_and_revoked(served: Served) -> None:
    made = served.json("token", "create", "--node", "n1")
    assert made["expires_s"] - made["created_s"] == 3600
    assert made["id"] in served.run("token", "list").stdout
    assert served.run("token", "revoke", made["id"]).exit_code == 0
    assert made["id"] not in served.run("token", "list").stdout
    again = served.run("token", "revoke", made["id"])
    assert (again.exit_code, "there is no token" in again.output) == (1, True)


def test_a_token_for_a_node_that_is_not_there_yet(served: Served) -> None:
    result = served.run("token", "create", "--node", "n7")
    assert result.exit_code == 0
    assert "no Node n7" in result.stderr
    assert result.stdout.startswith("nmj1.")


@pytest.mark.parametrize("arguments", [("--node", "../x"), ("--node", "a/b"), ("--node", "n1", "--ttl", "8d")])
def test_tokens_that_can_not_be(served: Served, arguments: tuple[str, ...]) -> None:
    assert served.run("token", "create", *arguments).exit_code == 1


@pytest.mark.parametrize("ttl", ["0s", "1", "h", "-1h", "1h30m", "1.5h"])
def test_durations(ttl: str) -> None:
    assert CliRunner().invoke(main, ["token", "create", "--node", "n1", "--ttl", ttl]).exit_code == 2


def test_revoke_list_and_undo(served: Served) -> None:
    assert "are refused" in served.run("revoke", CART).stdout
    assert [one["identity"] for one in served.json("revoke", "--list")] == [CART]
    assert CART in served.run("revoke", "--list").stdout
    assert served.run("revoke", CART, "--undo").exit_code == 0
    assert served.json("revoke", "--list") == []
    assert served.run("revoke", CART, "--undo").exit_code == 1
    assert yaml.safe_load(served.run("revoke", "--list", "-o", "yaml").stdout) == []


@pytest.mark.parametrize("identity", ["cart", "spiffe://other.example/ns/shop/sa/cart", CART + "/x", "spiffe://cluster.local/ns/%2e/sa/x"])
def test_what_can_not_be_revoked(served: Served, identity: str) -> None:
    assert served.run("revoke", identity).exit_code == 1
    assert served.json("revoke", "--list") == []


@pytest.mark.parametrize("arguments", [(), ("--undo",), ("--list", CART), ("--list", "--undo")])
def test_revoke_said_wrongly(served: Served, arguments: tuple[str, ...]) -> None:
    assert served.run("revoke", *arguments).exit_code == 2


def test_status_and_agents(served: Served) -> None:
    assert served.json("status")["ready"] is True
    assert "in force" in served.run("status").stdout
    assert served.json("agents", "--types") == []
    shown = served.run("agents")
    assert "NOT CONNECTED" in shown.stdout
    assert shown.exit_code == 1, "something is captured on a node whose agent is not there"


def test_get_shows_what_the_source_delivered(served: Served) -> None:
    names = {one["metadata"]["name"] for one in served.json("get", "pods")}
    assert names == {"cart-1"}
    assert served.run("get", "nothings").exit_code == 1


def test_a_crash_leaves_no_core_with_keys_in_it(served: Served) -> None:
    """I7."""
    limits = Path(f"/proc/{served.process.pid}/limits").read_text()
    assert next(line for line in limits.splitlines() if line.startswith("Max core file size")).split()[4:6] == ["1", "1"]


def test_no_controller(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["status", "--admin-socket", str(tmp_path / "none")])
    assert (result.exit_code, "meshctl serve" in result.output) == (3, True)


def test_a_start_that_can_not_be_says_why_in_a_line(served: Served, tmp_path: Path) -> None:
    somewhere = ["--admin-socket", tmp_path / "a.sock", "--metrics-port", "0", "--metrics-listen", "127.0.0.1"]
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "bad").mkdir(mode=0o700)
    (tmp_path / "bad" / "revocations.json").write_text("{")
    cases = {
        "another controller works": ["--config", served.config, "--state", served.path / "state"],
        "0700": ["--config", served.config, "--state", tmp_path / "open"],
        "revocations.json": ["--config", served.config, "--state", tmp_path / "bad"],
        "root-cert.pem": ["--config", served.config, "--state", tmp_path / "new", "--ca-dir", tmp_path],
        "none": ["--config", tmp_path / "none", "--state", tmp_path / "new2"],
    }
    started = {
        why: subprocess.Popen(
            [*MESHCTL, "serve", *map(str, (*arguments, *somewhere))], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for why, arguments in cases.items()
    }
    for why, process in started.items():
        stdout, stderr = process.communicate(timeout=WAIT_S)
        assert (process.returncode, stdout) == (1, ""), stderr
        assert why in stderr
        assert "Traceback" not in stderr
        assert stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [("--trust-domain", "Bad"), ("--hostname", "a b"), ("--token-port", "65536"), ("--max-certificate-ttl", "1")]
)
def test_options_that_can_not_be(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, ["serve", "--config", str(tmp_path), "--state", str(tmp_path / "x"), *arguments])
    assert result.exit_code == 2
    assert not (tmp_path / "x").exists()


def test_it_stops_on_sigterm_and_serves_again(tmp_path: Path) -> None:
    served = Served(tmp_path)
    served.await_ready()
    root = served.run("root").stdout
    assert served.stop() == 0
    assert not served.socket.exists()
    served.process = served.start()
    served.await_ready()
    assert served.run("root").stdout == root
    assert served.stop() == 0
    served.log.close()


def test_it_starts_where_one_was_killed(tmp_path: Path) -> None:
    served = Served(tmp_path)
    served.await_ready()
    served.process.kill()
    served.process.wait(WAIT_S)
    assert served.socket.exists()
    served.process = served.start()
    served.await_ready()
    assert served.stop() == 0
    served.log.close()


def test_the_root_is_rolled_over_in_three_steps(served: Served) -> None:
    def roots() -> list[x509.Certificate]:
        return x509.load_pem_x509_certificates(served.run("root").stdout.encode())

    (former,) = roots()
    assert "nothing is under way" in served.run("root", "rotate", "--status").stdout
    assert "a second root is trusted" in served.run("root", "rotate").stdout
    assert [one == former for one in roots()] == [True, False]
    early = served.run("root", "rotate")
    assert early.exit_code == 1
    assert "s to learn of the new root (--force goes on all the same)" in early.stderr
    assert "the second root signs" in served.run("root", "rotate", "--force").stdout
    token = served.run("token", "create", "--node", "n1").stdout.strip()
    # Who trusts the new root alone can join by now, and who trusts both.
    agent = Agent("n1", roots()[1].public_bytes(Encoding.PEM), *served.ports())
    asyncio.run(agent.join(token))
    assert "nothing is under way" in served.run("root", "rotate", "--force").stdout
    (last,) = roots()
    assert last != former
    found = json.loads(served.run("root", "rotate", "--status", "-o", "json").stdout)
    assert [(one["signs"], one["subject"]) for one in found["roots"]] == [(True, "CN=nodemesh root of cluster.local")]
    assert "no rotation is under way" in served.run("root", "rotate", "--cancel").stderr
    assert "exclude each other" in served.run("root", "rotate", "--cancel", "--force").stderr
