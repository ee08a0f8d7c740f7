"""What tests build upon: the API server that they get behaves as one in a cluster."""

import base64
import json
import time

import pytest

from tests.kube.admin import APIError
from tests.kube.cluster import Cluster
from tests.kube.objects import pod, pod_key, stored


def test_nobody_is_anonymous_and_rights_are_checked(kube: Cluster) -> None:
    with pytest.raises(APIError) as refused:
        kube.client("nobody's").list("v1", "Pod")
    assert refused.value.status == 401
    namespace = kube.namespace()
    stranger = kube.client(kube.admin.token(namespace, "default"))
    with pytest.raises(APIError) as refused:
        stranger.list("v1", "Pod")
    assert refused.value.status == 403


def test_tokens_are_bound_to_a_pod_and_its_node(kube: Cluster) -> None:
    namespace = kube.namespace()
    made = kube.admin.create(pod(namespace, "a", node="n1"))
    token = kube.admin.token(namespace, "default", audience="somebody", pod=made)
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token, "audiences": ["somebody"]}}
    status = kube.admin.create(review)["status"]
    assert status["authenticated"]
    assert status["audiences"] == ["somebody"]
    extra = status["user"]["extra"]
    assert extra["authentication.kubernetes.io/pod-uid"] == [made["metadata"]["uid"]]
    assert extra["authentication.kubernetes.io/node-name"] == ["n1"]
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    assert claims["exp"] > time.time()


def test_what_is_written_into_etcd_is_there_for_the_api(kube: Cluster) -> None:
    namespace = kube.namespace()
    kube.preload((pod_key(namespace, f"p{number}"), stored(pod(namespace, f"p{number}"))) for number in range(250))
    assert len(kube.admin.list("v1", "Pod", namespace)) == 250
    kube.admin.delete("v1", "Pod", "p7", namespace)
    assert len(kube.admin.list("v1", "Pod", namespace)) == 249


def test_the_kinds_of_istio_are_served(kube: Cluster) -> None:
    namespace = kube.namespace()
    item = {"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": "deny", "namespace": namespace}}
    kube.admin.apply({**item, "spec": {}})
    kube.admin.status({**item, "status": {"conditions": []}})
    assert kube.admin.get("security.istio.io/v1", "AuthorizationPolicy", "deny", namespace)["status"] == {"conditions": []}
