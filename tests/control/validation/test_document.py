"""Documents become objects or findings: every error, with its line; and what can't be understood never opens anything."""

import pytest

from control.kinds import Kind, ObjectKey
from control.validation.finding import Severity
from tests.control.validation.reading import errors, read, warnings


def test_every_error_is_listed_with_its_line() -> None:
    found = errors("""
        apiVersion: v1
        kind: Pod
        metadata:
          name: a
          labels: {app: true}
        spec:
          containers:
          - ports:
            - {name: x}
            - {containerPort: 99999}
            - {containerPort: 80, name: 3}
          serviceAccountName: Not_A_Name
        ---
        apiVersion: v1
        kind: Service
        metadata: {name: a}
        spec:
          clusterIP: 127.0.0.1
          internalTrafficPolicy: Near
          trafficDistribution: Far
          ipFamilies: [IPv5]
          ports:
          - {port: 0}
          - {port: 80, targetPort: 70000}
          - {port: 80}
        """)
    assert [line for line, _ in found] == [5, 9, 11, 12, 18, 23, 24, 25, 19, 20, 21]


def test_one_bad_document_blocks_no_other() -> None:
    documents = read("""
        a: b: c
        ---
        apiVersion: v1
        kind: Namespace
        metadata: {name: good}
        ---
        - just a list
        ---
        {{ template }}
        """)
    assert [document.key for document in documents] == [None, ObjectKey(Kind.NAMESPACE, "", "good"), None, None]
    assert documents[1].object is not None


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("kind: Pod", "needs apiVersion and kind"),
        ("apiVersion: v1\nkind: Pod", "metadata.name"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: 5}", "metadata.name"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: a/b}", "metadata.name"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: A}", "metadata.name or metadata.namespace"),
        ("apiVersion: v2\nkind: Pod\nmetadata: {name: a}", "not supported"),
        ("apiVersion: security.istio.io/v9\nkind: AuthorizationPolicy\nmetadata: {name: a}", "not supported"),
        ("just text", "not an object"),
    ],
)
def test_documents_without_an_object(text: str, what: str) -> None:
    ((_, message),) = errors(text)
    assert what in message


def test_other_kinds_are_passed_over_with_a_warning() -> None:
    (document,) = read("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}")
    assert [(finding.severity, document.unreadable) for finding in document.findings] == [(Severity.WARNING, False)]


def test_a_list_holds_objects() -> None:
    documents = read("""
        apiVersion: v1
        kind: List
        items:
        - {apiVersion: v1, kind: Namespace, metadata: {name: a}}
        - {apiVersion: v1, kind: Pod, metadata: {name: b}}
        """)
    assert [str(document.key) for document in documents] == ["Namespace a", "Pod default/b"]
    assert [document.origin.line for document in documents] == [4, 5]


def test_what_a_manifest_lacks_for_being_served_is_said() -> None:
    text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n"
    assert warnings(text) == ["the pod has no address and is not served", "the pod is on no node: nobody can obtain its identity"]
    assert warnings(text + "spec: {nodeName: n1}\nstatus: {podIPs: [{ip: 10.0.0.1}]}\n") == [
        "nothing says that the pod is ready: it counts as unhealthy"
    ]
