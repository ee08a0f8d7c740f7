"""What is installed: the chart, the Kustomize base that follows from it, and what the real API server says to both."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kube.cluster import Cluster

ROOT = Path(__file__).parents[2]
CHART, BASE = ROOT / "deploy/daemonset/chart", ROOT / "deploy/daemonset/base"
NAMESPACE = "nodemesh-system"
Manifest = dict[str, Any]

OTHERWISE: dict[str, Any] = {
    "image": {"registry": "images.example/mesh/", "tag": "v9", "pullSecrets": [{"name": "pull"}]},
    "trustDomain": "mesh.example",
    "cluster": "west",
    "controller": {"replicas": 3, "tolerations": [{"key": "control", "operator": "Exists"}], "extraArgs": ["--metrics-listen=0.0.0.0"]},
    "agent": {
        "capture": "nftables",
        "proxyDrainSeconds": 60,
        "proxyWorkers": 4,
        "seLinuxType": "spc_t",
        "cni": {"binDir": "/usr/libexec/cni", "confDir": "/etc/cni/net.d"},
        "extraArgs": ["--outside=proxied"],
    },
}


def tool(name: str, *arguments: str, stdin: str = "") -> str:
    directory = subprocess.run(
        [ROOT / "tools/kube_tools.sh", "--path"], check=True, capture_output=True, text=True, timeout=10
    ).stdout.strip()
    done = subprocess.run([f"{directory}/{name}", *arguments], check=False, capture_output=True, text=True, timeout=60, input=stdin)
    assert done.returncode == 0, done.stderr
    return done.stdout


def documents(text: str) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(text) if document]


def rendered(values: dict[str, Any], namespace: str = NAMESPACE) -> list[Manifest]:
    options = ["--namespace", namespace, "--kube-version", "1.30.0", "--values", "-"]
    return documents(tool("helm", "template", "nodemesh", str(CHART), *options, stdin=json.dumps(values)))


def only(items: list[Manifest], kind: str) -> Manifest:
    (found,) = (item for item in items if item["kind"] == kind)
    return found


@pytest.fixture
def installed_into(kube: Cluster) -> None:
    kube.admin.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})


def test_the_base_follows_from_the_chart() -> None:
    done = subprocess.run([ROOT / "tools/manifests.sh", "--check"], check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    files = {path.name for path in BASE.glob("*.yaml")} - {"kustomization.yaml"}
    apart = {"uninstall.yaml", "rate-limit-server.yaml"}
    assert files == {path.name for path in (CHART / "templates").glob("*.yaml")} - apart | {"namespace.yaml"}


def test_kustomize_builds_all_of_the_base() -> None:
    built = documents(tool("kustomize", "build", str(BASE)))
    separate = [item for path in BASE.glob("*.yaml") if path.name != "kustomization.yaml" for item in documents(path.read_text())]
    assert sorted(map(json.dumps, map(_sorted, built))) == sorted(map(json.dumps, map(_sorted, separate)))


def _sorted(item: Manifest) -> Manifest:
    return json.loads(json.dumps(item, sort_keys=True))  # type: ignore[no-any-return]


@pytest.mark.usefixtures("installed_into")
@pytest.mark.parametrize("values", [{}, OTHERWISE], ids=["as it comes", "with other values"])
def test_the_api_server_takes_every_manifest_strictly(kube: Cluster, values: dict[str, Any]) -> None:
    for item in [*rendered(values), *documents((BASE / "namespace.yaml").read_text())]:
        kube.admin.apply(item, dry_run=True)


def test_an_unknown_field_would_be_refused(kube: Cluster) -> None:
    broken = only(documents((BASE / "namespace.yaml").read_text()), "Namespace") | {"nonsense": True}
    with pytest.raises(Exception, match="nonsense"):
        kube.admin.apply(broken, dry_run=True)


COUNTING = {"enabled": True, "replicas": 3, "redisSecret": "counts", "configMap": "limits", "extraArgs": ["--max-keys=1000"]}


@pytest.mark.usefixtures("installed_into")
@pytest.mark.parametrize("values", [{"enabled": True}, COUNTING], ids=["alone", "with Redis"])
def test_the_rate_limit_server_is_a_workload_of_the_mesh(kube: Cluster, values: dict[str, Any]) -> None:
    found = [item for item in rendered({"rateLimitServer": values}) if item["metadata"]["name"] == "nodemesh-ratelimit"]
    assert [item["kind"] for item in found] == ["ServiceAccount", "Service", "Deployment"]
    kube.admin.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "istio-system"}})
    for item in found:
        assert item["metadata"]["namespace"] == "istio-system"
        kube.admin.apply(item, dry_run=True)
    template = found[2]["spec"]["template"]
    assert template["metadata"]["labels"]["istio.io/dataplane-mode"] == "ambient"
    (container,) = template["spec"]["containers"]
    counts = {"--redis-url-file=/redis/url", "--config=/limits", "--max-keys=1000"}
    assert counts & set(container["args"]) == (counts if values is COUNTING else set())


def test_rate_limit_servers_that_would_let_too_much_through_are_refused() -> None:
    with pytest.raises(AssertionError, match="redisSecret"):
        rendered({"rateLimitServer": {"enabled": True, "replicas": 2}})
    with pytest.raises(AssertionError, match="never in the mesh"):
        rendered({"rateLimitServer": {"enabled": True, "namespace": NAMESPACE}})


def test_values_reach_where_they_belong() -> None:
    items = rendered(OTHERWISE, "elsewhere")
    agent, controller = (only(items, kind)["spec"]["template"]["spec"] for kind in ("DaemonSet", "Deployment"))
    assert [pod["containers"][0]["image"] for pod in (agent, controller)] == [
        f"images.example/mesh/nodemesh-{part}:v9" for part in ("agent", "controller")
    ]
    arguments = agent["containers"][0]["args"]
    assert {"--capture=nftables", "--proxy-drain=60", "--proxy-workers=4", "--trust-domain=mesh.example", "--cluster=west"} <= set(
        arguments
    )
    assert {"--controller=nodemesh-controller.elsewhere.svc", "--cni-exempt-namespace=elsewhere", "--outside=proxied"} <= set(arguments)
    assert agent["terminationGracePeriodSeconds"] == 90, "longer than its connections have"
    assert agent["containers"][0]["securityContext"]["seLinuxOptions"] == {"type": "spc_t"}
    assert {"name": "cni-bin", "hostPath": {"path": "/usr/libexec/cni", "type": "DirectoryOrCreate"}} in agent["volumes"]
    assert "--agent-account=elsewhere/nodemesh-agent" in controller["containers"][0]["args"]
    text = json.dumps(items)
    assert NAMESPACE not in text
    assert "system:serviceaccount:elsewhere:nodemesh-agent" in text


def test_gateways_are_made_and_their_certificates_read_where_that_is_said_and_nowhere_else(kube: Cluster) -> None:
    edge, shop = kube.namespace("edge"), kube.namespace("shop")
    items = rendered({"gatewayNamespaces": [edge], "waypointNamespaces": [shop, edge]}, "elsewhere")
    roles = {resource: _roles_with(items, resource) for resource in ("secrets", "deployments")}
    assert all(len(found) == 1 for found in roles.values()), "of all ClusterRoles one has each"
    bound = [item for item in items if item["kind"].endswith("RoleBinding") and item["roleRef"]["name"] in set().union(*roles.values())]
    assert sorted((item["kind"], item["metadata"]["namespace"], item["roleRef"]["name"]) for item in bound) == sorted(
        ("RoleBinding", namespace, *roles[resource])
        for namespace, resource in ((edge, "secrets"), (edge, "deployments"), (shop, "deployments"))
    )
    for binding in bound:
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "nodemesh-controller", "namespace": "elsewhere"}]
        kube.admin.apply(binding, dry_run=True)


def _roles_with(items: list[Manifest], resource: str) -> set[str]:
    """The ClusterRoles that reach a kind of thing."""
    roles = (item for item in items if item["kind"] == "ClusterRole" and "helm.sh/hook" not in item["metadata"].get("annotations", {}))
    return {role["metadata"]["name"] for role in roles if any(resource in rule["resources"] for rule in role["rules"])}


def test_helm_has_the_agents_let_go_before_it_deletes_anything() -> None:
    hooks = [item for item in rendered(OTHERWISE, "elsewhere") if "helm.sh/hook" in item["metadata"].get("annotations", {})]
    assert [item["kind"] for item in hooks] == ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Job"]
    assert {item["metadata"]["annotations"]["helm.sh/hook"] for item in hooks} == {"pre-delete"}
    (container,) = only(hooks, "Job")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "images.example/mesh/nodemesh-controller:v9"
    assert container["args"] == ["uninstall", "--agents-only", "--namespace=elsewhere"]


def test_agents_may_only_be_upgraded_side_by_side() -> None:
    """With the node's network, a port that is listed would keep two from being on a node at once."""
    agent = only(rendered({}), "DaemonSet")["spec"]
    assert agent["updateStrategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert agent["template"]["spec"]["hostNetwork"]
    assert all("ports" not in container for container in agent["template"]["spec"]["containers"])


def test_the_programs_know_every_option_that_the_manifests_give() -> None:
    from control.cli.main import main as meshctl
    from nodeagent.cli.main import main as nodeagent

    for command, kind in ((nodeagent.commands["run"], "DaemonSet"), (meshctl.commands["serve"], "Deployment")):
        known = {option for parameter in command.params for option in parameter.opts}
        arguments = only(rendered(OTHERWISE), kind)["spec"]["template"]["spec"]["containers"][0]["args"]
        assert {argument.split("=", 1)[0] for argument in arguments[1:]} <= known, kind
