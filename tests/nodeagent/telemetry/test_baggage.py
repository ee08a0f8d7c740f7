"""The baggage of a workload: Istio's names, in order, nothing that could be taken for another member."""

from urllib.parse import unquote

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from meshapi.workload import Locality, Workload, WorkloadType, WorkloadUID
from nodeagent.telemetry.baggage import baggage

SHOP = Workload(
    uid=WorkloadUID("Kubernetes//Pod/default/shop-1"),
    name="shop-1",
    namespace="default",
    workload_type=WorkloadType.DEPLOYMENT,
    workload_name="shop",
    canonical_name="shop",
    canonical_revision="v1",
    locality=Locality("here", "a"),
)


def test_names_what_is_known() -> None:
    assert baggage(SHOP) == (
        "k8s.cluster.name=Kubernetes,k8s.namespace.name=default,k8s.deployment.name=shop,"
        "service.name=shop,service.version=v1,cloud.region=here,cloud.availability_zone=a"
    )


def test_leaves_out_what_is_not_known() -> None:
    bare = Workload(uid=WorkloadUID("u"), name="job-x", namespace="batch", workload_type=WorkloadType.JOB)
    assert baggage(bare) == "k8s.cluster.name=Kubernetes,k8s.namespace.name=batch,k8s.job.name=job-x"


@given(st.text(min_size=1, max_size=40))
def test_no_value_reads_as_more_than_itself(name: str) -> None:
    text = baggage(msgspec.structs.replace(SHOP, canonical_name=name))
    assert text.isascii()
    assert text.isprintable()
    members = dict(member.split("=") for member in text.split(","))
    assert len(members) == 7
    assert unquote(members["service.name"]) == name
