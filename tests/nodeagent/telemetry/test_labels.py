"""Labels come from the mesh and the certificate, never from more."""

from ipaddress import ip_address

from hypothesis import given, settings
from hypothesis import strategies as st

from meshapi.workload import Service, Workload, WorkloadUID
from nodeagent.telemetry.labels import LABELS, LOG, RESPONSE_FLAGS, Reporter, authenticated_source, flow_attributes
from tests.nodeagent.attributes import given_back

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
    attributes = given_back(
        flow_attributes(
            Reporter.SOURCE,
            source=CLIENT,
            destination=CLIENT,
            service=SERVICE,
            source_principal=WEB,
            destination_principal=WEB,
            mutual_tls=True,
        )
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
    attributes = given_back(flow_attributes(Reporter.DESTINATION, destination=SERVER))
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
    attributes = given_back(flow_attributes(Reporter.DESTINATION, destination=SERVER, source_principal=DB, mutual_tls=True))
    assert attributes["source_workload_namespace"] == "bank"
    assert attributes["source_principal"] == DB
    assert "source_workload" not in attributes


def test_an_identity_of_another_form_gives_no_namespace() -> None:
    attributes = given_back(flow_attributes(Reporter.DESTINATION, destination=SERVER, source_principal="spiffe://other.example/vm/7"))
    assert "source_workload_namespace" not in attributes


_names = st.text(max_size=4)
_workloads = st.builds(
    Workload,
    uid=st.just(WorkloadUID("u")),
    name=_names,
    namespace=_names,
    workload_name=_names,
    canonical_name=_names,
    canonical_revision=_names,
    cluster=_names,
)


def _side(side: str, workload: Workload | None, principal: str | None) -> dict[str, str]:
    if workload is None:
        return {f"{side}_principal": principal or "", f"{side}_workload_namespace": "shop" if principal == WEB else ""}
    return {
        f"{side}_workload": workload.workload_name or workload.name,
        f"{side}_canonical_service": workload.canonical_name,
        f"{side}_canonical_revision": workload.canonical_revision,
        f"{side}_workload_namespace": workload.namespace,
        f"{side}_principal": principal or "",
        f"{side}_app": workload.canonical_name,
        f"{side}_version": workload.canonical_revision,
        f"{side}_cluster": workload.cluster,
    }


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(Reporter), st.none() | _workloads, st.none() | _workloads, st.none() | st.just(WEB), st.booleans(), _names)
def test_put_together_from_parts_it_is_what_one_encoding_would_give(
    reporter: Reporter, source: Workload | None, destination: Workload | None, principal: str | None, mutual_tls: bool, hostname: str
) -> None:
    service = Service(name="s", namespace="n", hostname=hostname)
    labels = {
        "reporter": str(reporter),
        "request_protocol": "tcp",
        "connection_security_policy": "mutual_tls" if mutual_tls else "unknown",
        **_side("source", source, principal),
        **_side("destination", destination, None),
        "destination_service": hostname,
        "destination_service_name": "s",
        "destination_service_namespace": "n",
    }
    attributes = given_back(
        flow_attributes(
            reporter, source=source, destination=destination, service=service, source_principal=principal, mutual_tls=mutual_tls
        )
    )
    log = attributes.pop(LOG)
    assert attributes == {name: value for name, value in labels.items() if value}
    assert log.get("src.workload", "") == (source.name if source else "")
    assert log.get("dst.workload", "") == (destination.name if destination else "")
    assert log.get("src.identity") == principal
    assert log.get("dst.service", "") == hostname
