"""Certificates of gateways on a real API server: which Secrets the controller asks for, by which right, and how they reach a gateway."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from control.waypoint.gateway_secrets import GatewaySecrets
from control.waypoint.settings import Controllers, Settings
from tests.control.cluster.test_replicas import until
from tests.control.envoy.authority import Authority
from tests.control.kube_controller import AUDIENCE, KubeWorld, kube_world
from tests.control.waypoint.test_gateway_secrets import Asking, answer, beside, key_of, pair
from tests.kube.admin import APIError, Manifest
from tests.kube.cluster import Cluster
from tests.kube.objects import run_pod, secret
from tests.kube.rights import ACCOUNT, CERTIFICATES, let

CART, OTHER = "kubernetes://{}/cart", "kubernetes://{}/other"


def https_gateway(namespace: str) -> Manifest:
    validation = {"caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "roots"}]}
    tls = {"certificateRefs": [{"name": "cart"}], "frontendValidation": validation}
    listener = {"name": "s", "port": 443, "protocol": "HTTPS", "tls": tls}
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "gate", "namespace": namespace},
        "spec": {"gatewayClassName": "nodemesh", "listeners": [listener]},
    }


@asynccontextmanager
async def asking(world: KubeWorld, path: Path, namespace: str) -> AsyncIterator[tuple[Asking, GatewaySecrets]]:
    """The Envoy of the Gateway `gate`, and the process beside it, which joins by the token that its pod is given."""
    (path / "gate").mkdir(mode=0o700)
    world.kube.service_account(namespace, "gate")
    pod = run_pod(world.kube.admin, namespace, "gate-1", "10.9.8.7", node="n1", account="gate")
    token = path / "token"
    token.write_text(world.kube.admin.token(namespace, "gate", audience=AUDIENCE, pod=pod))
    settings = Settings(
        namespace=namespace,
        gateway="gate",
        controllers=Controllers(("localhost",), world.token_port, world.agent_port),
        roots_pem=(await world.admin("GET", "/root"))["pem"].encode(),
        state_dir=path / "gate",
        run_dir=path / "gate",
        envoy=Path("/none"),
        token_file=token,
    )
    async with beside(settings) as pair:
        yield pair


async def test_a_secret_is_read_where_the_operator_lets_it_be_and_nowhere_else(
    kube: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority, namespace = Authority(tmp_path), kube.namespace("edge")
    first, second = pair(authority, "a.example"), pair(authority, "b.example")
    kube.admin.apply(https_gateway(namespace))
    for name in ("cart", "other"):
        kube.admin.create(secret(namespace, name, first))
    # The pod of this test has no address of its own to call from.
    async with kube_world(kube, tmp_path, any_source=True) as world:
        await until(lambda: _stated(kube, namespace), "that the Gateway is known")
        async with asking(world, tmp_path, namespace) as (envoy, certificates):
            asked, in_vain = await envoy.ask(CART.format(namespace)), await envoy.ask(OTHER.format(namespace))
            with caplog.at_level(logging.WARNING):
                told = '403 Forbidden: secrets "cart"'
                await until(lambda: [one for one in caplog.messages if namespace in one and told in one], "that it may not be read")
            let(kube, world.namespace, CERTIFICATES, namespace)
            assert await key_of(asked) == first["tls.key"]
            kube.admin.apply(secret(namespace, "cart", second))
            assert await key_of(asked) == second["tls.key"]
            assert certificates.get(OTHER.format(namespace)) is None, "no server names it, though the right would reach that far"
            in_vain.cancel()
            roots = await envoy.ask(f"configmap://{namespace}/roots")
            pem = authority.root.read_text()
            kube.admin.create(
                {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "roots", "namespace": namespace}, "data": {"ca.crt": pem}}
            )
            assert (await answer(roots)).validation_context.trusted_ca.inline_bytes == pem.encode()


async def test_the_right_to_certificates_ends_at_the_namespace(kube: Cluster, tmp_path: Path) -> None:
    namespace, elsewhere = kube.namespace("edge"), kube.namespace("edge")
    async with kube_world(kube, tmp_path) as world:
        let(kube, world.namespace, CERTIFICATES, namespace)
        client = kube.client(kube.admin.token(world.namespace, ACCOUNT))
        assert client.list("v1", "Secret", namespace) == []
        for where in (elsewhere, "kube-system", ""):
            with pytest.raises(APIError) as refused:
                client.list("v1", "Secret", where)
            assert refused.value.status == 403
        with pytest.raises(APIError) as refused:
            client.create(secret(namespace, "mine", {}))
        assert refused.value.status == 403


def _stated(kube: Cluster, namespace: str) -> object:
    return kube.admin.get("gateway.networking.k8s.io/v1", "Gateway", "gate", namespace).get("status", {}).get("listeners")
