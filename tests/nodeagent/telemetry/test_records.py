"""Lines of the access log: golden, one line each whatever is in them."""

import json

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.bpf.mesh_sockets import Figures
from nodeagent.telemetry.kernel.sighting import Process, Sighting
from nodeagent.telemetry.records import FIELDS, as_json, as_text, record
from nodeagent.ztunnel.protocol import ConnectionEntry, Direction, Via

LOG = {
    "src.workload": "web-1",
    "src.namespace": "shop",
    "src.identity": "spiffe://cluster.local/ns/shop/sa/web",
    "dst.service": "db.bank.svc.cluster.local",
    "dst.workload": "db-1",
    "dst.namespace": "bank",
    "dst.identity": "spiffe://cluster.local/ns/bank/sa/db",
}
ENTRY = ConnectionEntry(
    id=1,
    workload="Kubernetes//Pod/shop/web-1",
    direction=Direction.OUTBOUND,
    series=3,
    source="10.1.0.2:41000",
    destination="10.2.0.3:5432",
    opened_s=1_800_000_000.25,
    via=Via.HBONE,
    hbone_address="[fd00::3]:15008",
    sent_bytes=100,
    received_bytes=2000,
    duration_s=1.5,
)


def test_what_the_kernel_knows_stands_beside_it() -> None:
    sighting = Sighting(Process(4711, "/usr/bin/web", "worker 1"), Figures(connect_s=0.0012345, rtt_s=None, retransmits=2))
    end = ' src.pid=4711 src.executable="/usr/bin/web" src.command="worker 1" tcp.connect="1.234ms" tcp.retransmits=2'
    assert as_text(record(ENTRY, LOG, sighting)) == as_text(record(ENTRY, LOG)) + end
    assert json.loads(as_json(record(ENTRY, LOG, sighting))) == json.loads(as_json(record(ENTRY, LOG))) | {
        "src.pid": 4711,
        "src.executable": "/usr/bin/web",
        "src.command": "worker 1",
        "tcp.connect": "1.234ms",
        "tcp.retransmits": 2,
    }
    assert as_text(record(ENTRY, LOG, Sighting(Process(2, None, "a b\n"), None))).endswith(' src.pid=2 src.command="a b\\n"')
    long = Sighting(Process(2, "/" + "x" * 4000, "x"), None)
    assert len(as_text(record(ENTRY, LOG, long))) < 3000


def test_a_connection_that_went_well() -> None:
    line = record(ENTRY, LOG)
    assert not line.denied
    assert as_text(line) == (
        "2027-01-15T08:00:01.750Z\tinfo\taccess\tconnection complete\t"
        'src.addr=10.1.0.2:41000 src.workload="web-1" src.namespace="shop" src.identity="spiffe://cluster.local/ns/shop/sa/web" '
        'dst.addr=10.2.0.3:5432 dst.hbone_addr=[fd00::3]:15008 dst.service="db.bank.svc.cluster.local" dst.workload="db-1" '
        'dst.namespace="bank" dst.identity="spiffe://cluster.local/ns/bank/sa/db" direction="outbound" bytes_sent=100 bytes_recv=2000 '
        'duration="1500ms"'
    )
    assert as_json(line) == (
        '{"time":"2027-01-15T08:00:01.750Z","level":"info","src.addr":"10.1.0.2:41000","src.workload":"web-1","src.namespace":"shop",'
        '"src.identity":"spiffe://cluster.local/ns/shop/sa/web","dst.addr":"10.2.0.3:5432","dst.hbone_addr":"[fd00::3]:15008",'
        '"dst.service":"db.bank.svc.cluster.local","dst.workload":"db-1","dst.namespace":"bank",'
        '"dst.identity":"spiffe://cluster.local/ns/bank/sa/db","direction":"outbound","bytes_sent":100,"bytes_recv":2000,'
        '"duration":"1500ms"}'
    )


def test_a_probe_is_told_with_how_it_was_known() -> None:
    assert record(msgspec.structs.replace(ENTRY, via=Via.PROBE), {}).fields["probe"] == "kubelet"
    assert record(msgspec.structs.replace(ENTRY, via=Via.PLAINTEXT), {"probe": "node"}).fields["probe"] == "node"
    assert "probe" not in record(ENTRY, LOG).fields


def test_a_connection_that_was_denied_and_of_which_little_is_known() -> None:
    entry = msgspec.structs.replace(
        ENTRY,
        direction=Direction.INBOUND,
        hbone_address=None,
        source_identity="spiffe://cluster.local/ns/other/sa/x",
        sent_bytes=0,
        received_bytes=0,
        duration_s=0.0,
        flag="UAEX",
        error="denied by policy",
        policy="bank/deny-others",
    )
    line = record(entry, {})
    assert line.denied
    assert as_text(line) == (
        "2027-01-15T08:00:00.250Z\terror\taccess\tconnection failed\t"
        'src.addr=10.1.0.2:41000 src.identity="spiffe://cluster.local/ns/other/sa/x" dst.addr=10.2.0.3:5432 direction="inbound" '
        'bytes_sent=0 bytes_recv=0 duration="0ms" error="denied by policy" policy="bank/deny-others" flag="UAEX"'
    )


@given(st.text(max_size=200), st.text(max_size=50), st.floats(allow_nan=False, allow_infinity=False))
def test_no_value_makes_another_line_or_field(error: str, name: str, opened_s: float) -> None:
    entry = msgspec.structs.replace(ENTRY, error=error, source=name, opened_s=opened_s)
    line = record(entry, {"src.workload": name, "forged": "yes"})
    text = as_text(line)
    assert len(text.splitlines()) == 1
    assert text.isascii()
    assert "forged" not in text or "forged" in error + name
    back = json.loads(as_json(line))
    assert "\n" not in as_json(line)
    assert (back["error"], back["src.workload"], back["src.addr"]) == (error, name, name)
    assert set(back) <= {"time", "level", *FIELDS}


def test_a_value_is_bounded() -> None:
    entry = msgspec.structs.replace(ENTRY, error="x" * 1_000_000)
    assert len(as_json(record(entry, {}))) < 5000
