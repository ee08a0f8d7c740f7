"""Kubeconfigs as people have them, and what is refused of them."""

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubeapi.access import AccessError, from_kubeconfig, in_cluster
from tests.kube.credentials import ServerCredentials, make_credentials

CERTIFICATE = "certificate-authority"


@pytest.fixture
def made(tmp_path: Path) -> ServerCredentials:
    return make_credentials(tmp_path)


def config(path: Path, cluster: dict[str, Any] | None = None, user: dict[str, Any] | None = None, **top: Any) -> Path:
    """A kubeconfig beside the certificate that make_credentials left."""
    whole = {
        "apiVersion": "v1",
        "kind": "Config",
        "preferences": {},
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "mesh"}}],
        "clusters": [{"name": "k", "cluster": {"server": "https://10.0.0.1:6443/", CERTIFICATE: "apiserver.pem"} | (cluster or {})}],
        "users": [{"name": "u", "user": user or {"token": "t"}}],
    }
    file = path / "kubeconfig"
    file.write_text(yaml.safe_dump(whole | top))
    return file


def test_a_token_and_files_beside_it(made: ServerCredentials, tmp_path: Path) -> None:
    access = from_kubeconfig(config(tmp_path, user={"tokenFile": "token"}))
    assert (access.server, access.token_file, access.namespace) == ("https://10.0.0.1:6443", tmp_path / "token", "mesh")


def test_data_in_the_file_and_a_client_certificate(made: ServerCredentials, tmp_path: Path) -> None:
    pem, key = (base64.b64encode(path.read_bytes()).decode() for path in (made.certificate, made.key))
    cluster = {CERTIFICATE: "nowhere", f"{CERTIFICATE}-data": pem, "tls-server-name": "kubernetes"}
    access = from_kubeconfig(config(tmp_path, cluster, {"client-certificate-data": pem, "client-key-data": key}))
    assert access.server_name == "kubernetes"
    assert access.tls.get_ca_certs()


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"cluster": {"server": "http://10.0.0.1"}}, "no server with https"),
    ({"cluster": {"insecure-skip-tls-verify": True}}, "would trust anybody"),
    ({"cluster": {CERTIFICATE: "nowhere"}}, "can't be used"),
    ({"cluster": {f"{CERTIFICATE}-data": "%%"}}, "can't be used"),
    ({"user": {"exec": {"command": "sh"}}}, "which is not run"),
    ({"user": {"auth-provider": {"name": "x"}}}, "which is not run"),
    ({"current-context": "other"}, "there is no context"),
    ({"clusters": []}, "no server with https"),
    ({"contexts": 7}, "Expected `array`"),
]


@pytest.mark.parametrize(("changed", "why"), REFUSED)
def test_what_is_refused(made: ServerCredentials, tmp_path: Path, changed: dict[str, Any], why: str) -> None:
    with pytest.raises(AccessError, match=why):
        from_kubeconfig(config(tmp_path, **changed))


def test_keys_are_in_no_error_and_no_repr(made: ServerCredentials, tmp_path: Path) -> None:
    assert "canary" not in repr(from_kubeconfig(config(tmp_path, user={"token": "canary"})))
    with pytest.raises(AccessError) as error:
        from_kubeconfig(config(tmp_path, user={"client-certificate-data": "eA==", "client-key-data": base64.b64encode(b"canary").decode()}))
    assert "canary" not in str(error.value)


def test_a_pod(made: ServerCredentials, tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(made.certificate.read_bytes())
    (tmp_path / "namespace").write_text("mesh\n")
    access = in_cluster({"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}, tmp_path)
    assert (access.server, access.namespace, access.token_file) == ("https://[fd00::1]:443", "mesh", tmp_path / "token")
    with pytest.raises(AccessError, match="--kubeconfig"):
        in_cluster({}, tmp_path)
