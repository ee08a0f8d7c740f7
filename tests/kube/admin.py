"""The administrator's side of an API server in tests: blocking, small, and no code of the mesh."""

import http.client
import json
import ssl
from typing import Any
from urllib.parse import urlencode, urlsplit

Manifest = dict[str, Any]
PLURALS = {"EndpointSlice": "endpointslices", "AuthorizationPolicy": "authorizationpolicies", "NetworkPolicy": "networkpolicies"}
PLURALS |= {"ServiceEntry": "serviceentries", "WorkloadEntry": "workloadentries", "Ingress": "ingresses"}
PLURALS |= {"ValidatingAdmissionPolicy": "validatingadmissionpolicies", "GatewayClass": "gatewayclasses"}
CLUSTER_WIDE = {"Namespace", "Node", "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "PriorityClass", "TokenReview"}
CLUSTER_WIDE |= {"CSIDriver", "ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"}


class APIError(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"{status}: {body[:1000]}")
        self.status = status


class Admin:
    """One connection, opened when needed; every call raises APIError for what the API server refuses, OSError if it is not there."""

    def __init__(self, server: str, tls: ssl.SSLContext, token: str) -> None:
        self._address = urlsplit(server).netloc
        self._tls = tls
        self._token = token
        self._connection: http.client.HTTPSConnection | None = None

    def create(self, item: Manifest) -> Manifest:
        """POST."""
        return self._json("POST", path(item), item)

    def apply(self, item: Manifest, *, dry_run: bool = False, manager: str = "tests") -> Manifest:
        """Server-side apply, as `kubectl apply --server-side` does it."""
        query = {"fieldManager": manager, "force": "true"} | ({"dryRun": "All", "fieldValidation": "Strict"} if dry_run else {})
        return self._json("PATCH", f"{path(item, named=True)}?{urlencode(query)}", item, "application/apply-patch+yaml")

    def status(self, item: Manifest) -> Manifest:
        """Merges `item`'s status into the object's, as a kubelet does."""
        return self._json("PATCH", f"{path(item, named=True)}/status", {"status": item["status"]}, "application/merge-patch+json")

    def merge(self, item: Manifest) -> Manifest:
        """Merges `item` into the object that it names."""
        return self._json("PATCH", path(item, named=True), item, "application/merge-patch+json")

    def get(self, version: str, kind: str, name: str, namespace: str = "") -> Manifest:
        return self._json("GET", path(_named(version, kind, name, namespace), named=True))

    def list(self, version: str, kind: str, namespace: str = "") -> list[Manifest]:
        return self._json("GET", path(_named(version, kind, "", namespace)))["items"]

    def delete(self, version: str, kind: str, name: str, namespace: str = "") -> None:
        """At once, without a period of grace."""
        self._json("DELETE", f"{path(_named(version, kind, name, namespace), named=True)}?gracePeriodSeconds=0")

    def token(self, namespace: str, account: str, *, audience: str = "", pod: Manifest | None = None, ttl_s: int = 3600) -> str:
        """A token of a service account, bound to `pod` if there is one, as a kubelet gets it."""
        spec: Manifest = {"expirationSeconds": ttl_s} | ({"audiences": [audience]} if audience else {})
        if pod is not None:
            meta = pod["metadata"]
            spec["boundObjectRef"] = {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        return self._json("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token", body)["status"]["token"]

    def request(self, method: str, target: str, body: bytes | None = None, content_type: str = "application/json") -> tuple[int, bytes]:
        """Status and body; a connection that the server closed meanwhile is opened again."""
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": content_type, "Accept": "application/json"}
        for last in (False, True):
            if self._connection is None:
                self._connection = http.client.HTTPSConnection(self._address, context=self._tls, timeout=30)
            try:
                self._connection.request(method, target, body, headers)
                response = self._connection.getresponse()
                return response.status, response.read()
            except (http.client.HTTPException, OSError) as error:
                self.close()
                if last:
                    raise OSError(str(error)) from error
        raise AssertionError("the second attempt returns or raises")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _json(self, method: str, target: str, body: Manifest | None = None, content_type: str = "application/json") -> Manifest:
        status, answer = self.request(method, target, json.dumps(body).encode() if body is not None else None, content_type)
        if status >= 300:
            raise APIError(status, answer.decode(errors="replace"))
        return json.loads(answer)


def path(item: Manifest, *, named: bool = False) -> str:
    """The address of an object, or of the collection that it belongs to."""
    version, kind, meta = item["apiVersion"], item["kind"], item.get("metadata", {})
    group = f"/apis/{version}" if "/" in version else f"/api/{version}"
    namespace = f"/namespaces/{meta['namespace']}" if meta.get("namespace") and kind not in CLUSTER_WIDE else ""
    return f"{group}{namespace}/{PLURALS.get(kind, kind.lower() + 's')}" + (f"/{meta['name']}" if named else "")


def _named(version: str, kind: str, name: str, namespace: str) -> Manifest:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": namespace}}
