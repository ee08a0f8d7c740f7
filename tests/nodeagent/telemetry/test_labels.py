"""Labels come from the mesh and the certificate, never from more."""

from ipaddress import ip_address

from meshapi.workload import Service, Workload, WorkloadUID
from nodeagent.telemetry.labels import LABELS, LOG, RESPONSE_FLAGS, Reporter, authenticated_source, flow_attributes

CLIENT = Workload(
    uid=WorkloadUID("Kubernetes//Pod/shop/web-1"),
    name="web-1",
    namespace="shop",
    addresses=(ip_address("10.0.0.1"),),
    service_account="web",
    workload_name="web",
    canonical_name="web",
    canonical_revision="v1",
)
SERVER = Workload(uid=WorkloadUID("Kubernetes//Pod/bank/db-1"), name="db-1", namespace="bank", service_account="db")
SERVICE = Service(name="db", namespace="bank", hostname="db.bank.svc.cluster.local")
WEB = "spiffe://cluster.local/ns/shop/sa/web"
DB = "spiffe://cluster.local/ns/bank/sa/db"


def test_a_known_flow_has_every_label_but_the_flags() -> None:
    attributes = flow_attributes(
        Reporter.SOURCE,
        source=CLIENT,
        destination=CLIENT,
        service=SERVICE,
        source_principal=WEB,
        destination_principal=WEB,
        mutual_tls=True,
    )
    assert set(attributes) == {*LABELS, LOG} - {RESPONSE_FLAGS}
    assert attributes["source_workload"] == "web"
    assert attributes["destination_service_name"] == "db"
    assert attributes["connection_security_policy"] == "mutual_tls"
    assert attributes[LOG] == {
        "src.workload": "web-1",
        "src.namespace": "shop",
        "src.identity": WEB,
        "dst.workload": "web-1",
        "dst.namespace": "shop",
        "dst.identity": WEB,
        "dst.service": "db.bank.svc.cluster.local",
    }


def test_what_is_missing_is_left_out() -> None:
    attributes = flow_attributes(Reporter.DESTINATION, destination=SERVER)
    assert attributes == {
        "reporter": "destination",
        "destination_workload": "db-1",
        "destination_workload_namespace": "bank",
        "destination_cluster": "Kubernetes",
        "request_protocol": "tcp",
        "connection_security_policy": "unknown",
        LOG: {"dst.workload": "db-1", "dst.namespace": "bank"},
    }


def test_a_source_whose_certificate_says_otherwise_is_only_what_the_certificate_says() -> None:
    assert authenticated_source(WEB, CLIENT) is CLIENT
    assert authenticated_source(DB, CLIENT) is None
    assert authenticated_source(None, CLIENT) is None
    assert authenticated_source(WEB, None) is None
    attributes = flow_attributes(Reporter.DESTINATION, destination=SERVER, source_principal=DB, mutual_tls=True)
    assert attributes["source_workload_namespace"] == "bank"
    assert attributes["source_principal"] == DB
    assert "source_workload" not in attributes


def test_an_identity_of_another_form_gives_no_namespace() -> None:
    attributes = flow_attributes(Reporter.DESTINATION, destination=SERVER, source_principal="spiffe://other.example/vm/7")
    assert "source_workload_namespace" not in attributes
