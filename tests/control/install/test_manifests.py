"""What an operator chooses reaches the manifests, and nothing else changes."""

from control.install.manifests import Choices, documents, path_of


def test_what_others_refer_to_comes_first() -> None:
    kinds = [document["kind"] for document in documents(Choices())]
    assert kinds[0] == "Namespace"
    assert kinds.index("ServiceAccount") < kinds.index("ClusterRoleBinding") < len(kinds)
    assert max(index for index, kind in enumerate(kinds) if kind in {"ClusterRole", "Role"}) < kinds.index("RoleBinding")


def test_images_and_options_are_set_where_they_are() -> None:
    plain, chosen = (
        documents(Choices()),
        documents(Choices("images.example/mesh/", "v9", (("--trust-domain", "mesh.example"), ("--capture", "nftables")))),
    )
    differing = [(before, after) for before, after in zip(plain, chosen, strict=True) if before != after]
    assert [after["kind"] for _, after in differing] == ["DaemonSet", "Deployment"]
    for before, after in differing:
        (old,), (new,) = (item["spec"]["template"]["spec"]["containers"] for item in (before, after))
        assert new["image"] == f"images.example/mesh/{old['image'].split(':')[0]}:v9"
        changed = set(new["args"]) - set(old["args"])
        own = "--capture=nftables" if after["kind"] == "DaemonSet" else "--gateway-image=images.example/mesh/nodemesh-envoy:v9"
        assert changed == {"--trust-domain=mesh.example", own}
        assert len(new["args"]) == len(old["args"])


def test_paths() -> None:
    paths = {document["kind"]: path_of(document) for document in documents(Choices())}
    assert paths["Namespace"] == "/api/v1/namespaces/nodemesh-system"
    assert paths["DaemonSet"] == "/apis/apps/v1/namespaces/nodemesh-system/daemonsets/nodemesh-agent"
    assert paths["ValidatingAdmissionPolicy"] == "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/nodemesh-agent"
