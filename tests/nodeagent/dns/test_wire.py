"""Messages on the wire: against a known implementation, and against bytes that mean harm."""

from contextlib import suppress
from ipaddress import ip_address

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.dns import wire
from nodeagent.dns.wire import Answer, Code, Extension, Flag, MalformedError, Query, Type

LABEL = st.from_regex(r"[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,20}[a-zA-Z0-9])?", fullmatch=True)
NAME = st.lists(LABEL, min_size=1, max_size=6).map(".".join)


def asked(name: str, kind: str = "A", **options: int) -> bytes:
    return dns.message.make_query(name, kind, **options).to_wire()  # type: ignore[arg-type]


def query(packet: bytes) -> Query:
    read = wire.read_query(packet)
    assert isinstance(read, Query)
    return read


@given(NAME, st.sampled_from(["A", "AAAA", "SRV", "HTTPS", "TXT"]), st.none() | st.integers(0, 65535), st.booleans())
def test_questions_are_read_as_others_write_them(name: str, kind: str, payload: int | None, dnssec: bool) -> None:
    options = {} if payload is None else {"use_edns": 0, "payload": payload, "want_dnssec": dnssec}
    read = query(asked(name, kind, **options))
    assert (read.name, read.type, read.klass) == (name.lower(), dns.rdatatype.from_text(kind), 1)
    assert read.extension == (None if payload is None else Extension(0, payload, dnssec))
    assert wire.MIN_UDP_BYTES <= read.udp_bytes <= wire.MAX_UDP_BYTES


@given(NAME, st.lists(st.ip_addresses(), max_size=5), st.none() | st.just(0))
def test_answers_are_read_by_others_as_they_are_meant(name: str, addresses: list, edns: int | None) -> None:
    packet = dns.message.make_query(name, "A", use_edns=edns)
    answer = Answer(
        (wire.name_record(Type.CNAME, "other.example"), *(wire.address_record(one, "other.example") for one in addresses)),
        authority=(wire.authority_record("example", 30),),
        extra=(wire.service_record("pod.example", 80, "_http._tcp.example"),),
    )
    read = dns.message.from_wire(wire.write_answer(query(packet.to_wire()), answer, ttl_s=30))
    assert read.is_response is not None
    assert packet.is_response(read)
    assert read.flags & dns.flags.AA
    assert read.edns == (-1 if edns is None else 0)
    found = {ip_address(str(one)) for rrset in read.answer if rrset.rdtype in {dns.rdatatype.A, dns.rdatatype.AAAA} for one in rrset}
    assert found == set(addresses)
    assert read.authority[0].rdtype == dns.rdatatype.SOA
    assert str(read.additional[0][0]) == "0 100 80 pod.example."


@given(st.binary(max_size=300))
def test_any_bytes_are_a_question_an_answer_or_nothing(packet: bytes) -> None:
    read = wire.read_query(packet)
    if isinstance(read, bytes):
        assert read[:2] == packet[:2]
        assert wire.read_query(read) is None, "what is an answer is never answered"
    with suppress(MalformedError):
        wire.read_response(packet)


@given(st.binary(max_size=80), st.integers(0, 60), st.booleans())
def test_a_question_that_is_damaged_anywhere(noise: bytes, at: int, cut: bool) -> None:
    good = asked("web.shop.svc.cluster.local", use_edns=0)
    packet = good[:at] + noise + (b"" if cut else good[at + len(noise) :])
    read = wire.read_query(packet)
    if isinstance(read, Query):
        assert packet[12 : 12 + len(read.question)] == read.question


RESPONSE = dns.message.make_response(dns.message.make_query("www.example.com", "A", use_edns=0))
RESPONSE.answer = [
    dns.rrset.from_text("www.example.com.", 300, "IN", "CNAME", "a.example.com."),
    dns.rrset.from_text("a.example.com.", 60, "IN", "A", "192.0.2.1", "192.0.2.2"),
]


@given(st.binary(max_size=60), st.integers(0, 120), st.booleans())
def test_an_answer_that_is_damaged_anywhere(noise: bytes, at: int, cut: bool) -> None:
    good = RESPONSE.to_wire()
    with suppress(MalformedError):
        read = wire.read_response(good[:at] + noise + (b"" if cut else good[at + len(noise) :]))
        assert all(place + 4 <= len(good) + len(noise) for place in read.ttl_at)
    with suppress(MalformedError):
        data, ttl_s = wire.answered_with(good[:at] + noise + (b"" if cut else good[at + len(noise) :]), wire.Type.A)
        assert ttl_s >= 0
        assert sum(map(len, data)) <= len(good) + len(noise)


def test_what_an_answer_holds_of_a_type() -> None:
    data, ttl_s = wire.answered_with(RESPONSE.to_wire(), wire.Type.A)
    assert (sorted(data), ttl_s) == ([b"\xc0\x00\x02\x01", b"\xc0\x00\x02\x02"], 60)
    assert wire.answered_with(RESPONSE.to_wire(), wire.Type.AAAA) == ((), 0)


@pytest.mark.parametrize(
    ("packet", "code"),
    [
        (b"\x12\x34\x01\x00\x00\x02" + b"\0" * 6 + b"\0\0\1\0\1" * 2, Code.MALFORMED),
        (b"\x12\x34\x01\x00\x00\x00" + b"\0" * 6, Code.MALFORMED),
        (b"\x12\x34\x01\x00\x00\x01" + b"\0" * 6 + b"\xc0\x0c\0\1\0\1", Code.MALFORMED),
        (b"\x12\x34\x01\x00\x00\x01" + b"\0" * 6 + b"\x3fa" * 70 + b"\0\0\1\0\1", Code.MALFORMED),
        (b"\x12\x34\x01\x00\x00\x01" + b"\0" * 6 + b"\x05web", Code.MALFORMED),
        (b"\x12\x34\x29\x00\x00\x01" + b"\0" * 6 + b"\0\0\1\0\1", Code.NOT_IMPLEMENTED),
    ],
)
def test_what_is_no_question_gets_its_code(packet: bytes, code: Code) -> None:
    answer = wire.read_query(packet)
    assert isinstance(answer, bytes)
    read = dns.message.from_wire(answer)
    assert (read.id, read.rcode(), read.question) == (0x1234, code, [])


@pytest.mark.parametrize("packet", [b"", b"\0" * 11, b"\x12\x34\x81\x00\x00\x01" + b"\0" * 6 + b"\0\0\1\0\1"])
def test_what_is_not_to_be_answered(packet: bytes) -> None:
    assert wire.read_query(packet) is None


def test_a_version_of_edns_that_nobody_knows() -> None:
    answer = wire.read_query(dns.message.make_query("a.example", "A", use_edns=1).to_wire())
    assert isinstance(answer, bytes)
    assert dns.message.from_wire(answer).rcode() == dns.rcode.BADVERS


def test_a_dot_or_another_byte_within_a_label_makes_no_other_name_of_it() -> None:
    for label in (b"web.shop", b"web\0", "bücher".encode()):
        read = wire.read_query(b"\0\1\1\0\0\1" + b"\0" * 6 + bytes((len(label),)) + label + b"\3svc\0\0\1\0\1")
        assert isinstance(read, Query)
        assert read.name == ""


def test_what_does_not_fit_is_left_out_and_told() -> None:
    many = Answer(tuple(wire.address_record(ip_address(f"10.0.{index}.1")) for index in range(100)))
    packet = wire.write_answer(query(asked("a.example")), many, ttl_s=30, limit_bytes=512)
    assert len(packet) <= 512
    read = dns.message.from_wire(packet)
    assert read.flags & dns.flags.TC
    assert 20 < len(read.answer[0]) < 100


def test_how_long_an_answer_holds() -> None:
    assert wire.read_response(RESPONSE.to_wire()).lives_s == 60
    negative = dns.message.make_response(dns.message.make_query("no.example.com", "A"))
    negative.set_rcode(dns.rcode.NXDOMAIN)
    assert wire.read_response(negative.to_wire()).lives_s is None, "nobody says how long"
    negative.authority = [dns.rrset.from_text("example.com.", 3600, "IN", "SOA", "ns.example.com. h.example.com. 1 2 3 4 90")]
    assert wire.read_response(negative.to_wire()).lives_s == 90
    negative.set_rcode(dns.rcode.SERVFAIL)
    assert wire.read_response(negative.to_wire()).lives_s is None
    cut = dns.message.from_wire(RESPONSE.to_wire())
    cut.flags |= dns.flags.TC
    assert wire.read_response(cut.to_wire()).lives_s is None


def test_an_answer_passed_on_is_to_the_clients_own_question_and_has_aged() -> None:
    client = query(asked("WWW.example.com", use_edns=0))
    packet = RESPONSE.to_wire()
    read = dns.message.from_wire(wire.pass_on(client, packet, wire.read_response(packet), age_s=45))
    assert (read.id, str(read.question[0].name)) == (client.id, "WWW.example.com.")
    assert [rrset.ttl for rrset in read.answer] == [255, 15]
    assert sorted(str(one) for one in read.answer[1]) == ["192.0.2.1", "192.0.2.2"]
    short = dns.message.from_wire(wire.pass_on(client, packet, wire.read_response(packet), limit_bytes=60))
    assert short.flags & dns.flags.TC
    assert not short.answer


@given(NAME, st.integers(0, 2**64 - 1))
def test_the_case_of_letters_is_all_that_differs(name: str, bits: int) -> None:
    asked_for = query(asked(name))
    changed = wire.in_case(asked_for.question, bits)
    assert changed.lower() == asked_for.question.lower()
    assert changed[-4:] == asked_for.question[-4:]
    passed = query(wire.write_query(asked_for, 77, changed))
    assert (passed.id, passed.name, passed.flags & Flag.RECURSION_DESIRED) == (77, asked_for.name, Flag.RECURSION_DESIRED)


@pytest.mark.parametrize(
    ("text", "good"), [("web-1.shop.svc", True), ("", False), ("a..b", False), ("a" * 64, False), ("é.x", False), ("a b.c", False)]
)
def test_names_that_can_be_written(text: str, good: bool) -> None:
    assert wire.is_name(text) == good
    if good:
        assert dns.name.from_wire(wire.write_name(text), 0)[0].to_text(omit_final_dot=True) == text
