"""A real API server with its etcd on loopback, for tests: RBAC, bound tokens, nobody anonymous, nothing else running."""

import base64
import json
import os
import secrets
import shutil
import ssl
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterable
from pathlib import Path

import yaml

from tests.kube.admin import Admin
from tests.kube.credentials import make_credentials
from tests.kube.ports import free_ports

REPOSITORY = Path(__file__).resolve().parents[2]
CRDS = Path(__file__).parent / "crds"
START_S = 90.0
ADMISSION_OFF = ("StorageObjectInUseProtection", "Priority", "DefaultStorageClass", "RuntimeClass", "DefaultIngressClass")
"""They wait for objects that nobody makes here."""


class Cluster:
    """Made, started, stopped. `admin` may do everything; `kubeconfig` makes the credentials of others."""

    def __init__(self) -> None:
        memory = Path("/dev/shm")
        self.directory = Path(tempfile.mkdtemp(prefix="nodemesh-kube-", dir=memory if memory.is_dir() else None))
        self.credentials = make_credentials(self.directory)
        self.etcd_port, self.etcd_peer_port, self.port = free_ports(3)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._clients: list[Admin] = []
        self.admin = self.client(self.credentials.admin_token)

    @property
    def server(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.credentials.ca))

    def start(self) -> None:
        """Returns when the API server is ready."""
        self.start_etcd()
        self.start_apiserver()
        self.wait_ready()

    def start_etcd(self) -> None:
        client, peer = f"http://127.0.0.1:{self.etcd_port}", f"http://127.0.0.1:{self.etcd_peer_port}"
        options = {
            "name": "etcd",
            "data-dir": self.directory / "etcd",
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"etcd={peer}",
            "logger": "zap",
            "log-level": "warn",
        }
        self._spawn("etcd", "etcd", options)

    def start_apiserver(self) -> None:
        made = self.credentials
        options = {
            "etcd-servers": f"http://127.0.0.1:{self.etcd_port}",
            "bind-address": "127.0.0.1",
            "secure-port": self.port,
            "cert-dir": self.directory,
            "tls-cert-file": made.certificate,
            "tls-private-key-file": made.key,
            "anonymous-auth": "false",
            "authorization-mode": "RBAC",
            "token-auth-file": made.tokens,
            "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
            "service-account-key-file": made.issuer_public,
            "service-account-signing-key-file": made.issuer_key,
            "service-cluster-ip-range": "10.96.0.0/12",
            "disable-admission-plugins": ",".join(ADMISSION_OFF),
            "endpoint-reconciler-type": "none",
            "enable-priority-and-fairness": "false",
            "profiling": "false",
        }
        self._spawn("kube-apiserver", str(binary()), options)

    def stop_apiserver(self) -> None:
        """At once, as when its machine fails."""
        self._kill("kube-apiserver")

    def stop(self) -> None:
        for client in self._clients:
            client.close()
        for name in tuple(self._processes):
            self._kill(name)
        shutil.rmtree(self.directory, ignore_errors=True)

    def wait_ready(self) -> None:
        """Polls until the API server is ready; raises with the end of its log if it ends, or takes too long."""
        deadline = time.monotonic() + START_S
        while not self._ready():
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{name} ended with {process.returncode}:\n{self.log(name)}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"kube-apiserver is not ready:\n{self.log('kube-apiserver')}")
            time.sleep(0.1)

    def log(self, name: str) -> str:
        """The end of what a process wrote."""
        return (self.directory / f"{name}.log").read_text(errors="replace")[-6000:]

    def install_crds(self) -> None:
        """Istio's and Gateway API's kinds that the mesh reads, and waits until they are served."""
        for path in sorted(CRDS.glob("*.yaml")):
            self.install_crd(path.stem)

    def install_crd(self, name: str) -> None:
        """One of tests/kube/crds; raises TimeoutError if it does not come to be served."""
        self.admin.apply(yaml.safe_load((CRDS / f"{name}.yaml").read_text()))
        deadline = time.monotonic() + START_S
        while True:
            found = self.admin.get("apiextensions.k8s.io/v1", "CustomResourceDefinition", name)
            conditions = {one["type"]: one["status"] for one in found.get("status", {}).get("conditions") or ()}
            if conditions.get("Established") == "True":
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name} is not served: {conditions}")
            time.sleep(0.05)

    def namespace(self, prefix: str = "test", labels: dict[str, str] | None = None) -> str:
        """Makes a namespace of a name that no other test has, with its `default` service account."""
        name = f"{prefix}-{secrets.token_hex(4)}"
        self.admin.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels or {}}})
        self.service_account(name, "default")
        return name

    def service_account(self, namespace: str, name: str) -> None:
        self.admin.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}})

    def client(self, token: str) -> Admin:
        """The API as who holds `token` sees it."""
        self._clients.append(Admin(self.server, self.tls, token))
        return self._clients[-1]

    def kubeconfig(self, path: Path, token: str, *, server: str | None = None) -> Path:
        """Writes a kubeconfig for who holds `token`; JSON is YAML, too."""
        cluster = {"server": server or self.server, "certificate-authority": str(self.credentials.ca)}
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "test",
                    "clusters": [{"name": "test", "cluster": cluster}],
                    "users": [{"name": "test", "user": {"token": token}}],
                    "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
                }
            )
        )
        path.chmod(0o600)
        return path

    def preload(self, objects: Iterable[tuple[str, dict[str, object]]]) -> None:
        """Writes thousands of objects straight into etcd, as `/registry/...` keys: by the API it would take a minute."""
        batch: list[dict[str, object]] = []
        for key, item in objects:
            put = {"key": _base64(key.encode()), "value": _base64(json.dumps(item).encode())}
            batch.append({"requestPut": put})
            if len(batch) == 100:
                self.etcd("kv/txn", {"success": batch})
                batch = []
        if batch:
            self.etcd("kv/txn", {"success": batch})

    def etcd(self, path: str, body: dict[str, object]) -> dict[str, object]:
        """A request to etcd's own API."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.etcd_port}/v3/{path}", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310 -- loopback
            return json.loads(response.read())

    def _ready(self) -> bool:
        try:
            return self.admin.request("GET", "/readyz")[0] == 200
        except OSError:
            return False

    def _spawn(self, name: str, program: str, options: dict[str, object]) -> None:
        command = [program, *(f"--{option}={value}" for option, value in options.items())]
        with (self.directory / f"{name}.log").open("ab") as log:
            # Whatever becomes of the tests' process, these end with it.
            self._processes[name] = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "--", *command], stdout=log, stderr=log)

    def _kill(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is not None:
            process.kill()
            process.wait()


def binary() -> Path:
    """The API server that tools/kube.sh builds, or the one that KUBE_APISERVER names; raises RuntimeError if it is not there."""
    if other := os.environ.get("KUBE_APISERVER"):
        return Path(other)
    found = subprocess.run([REPOSITORY / "tools/kube.sh", "--path"], check=True, capture_output=True, text=True).stdout.strip()
    if not Path(found).exists():
        raise RuntimeError("kube-apiserver is not built: run `make kube`")
    return Path(found)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
