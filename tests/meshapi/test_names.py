"""Names as values and on the wire."""

from contextlib import suppress
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshapi.decoding import ModelError
from meshapi.names import Host, NamedPort, Names, decode_names, encode_names
from meshapi.proto import names_pb2 as pb

LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
HOST = st.builds(
    Host,
    hostname=st.lists(LABEL, min_size=1, max_size=5).map(".".join),
    addresses=st.lists(st.ip_addresses(), max_size=3).map(tuple),
    ports=st.lists(st.builds(NamedPort, st.integers(1, 65535), LABEL, st.booleans(), st.integers(0, 65535)), max_size=3).map(tuple),
    private=st.booleans(),
    alias=st.just("") | LABEL,
)


@given(st.builds(Names, LABEL, st.just("cluster.local"), st.lists(HOST, max_size=4).map(tuple)))
def test_what_is_written_is_read(names: Names) -> None:
    assert decode_names(encode_names(names)) == names


@given(st.binary(max_size=200))
def test_any_bytes_are_names_or_an_error(body: bytes) -> None:
    with suppress(ModelError):
        decode_names(body)


@pytest.mark.parametrize(
    "host",
    [
        pb.Host(hostname=""),
        pb.Host(hostname="a..b"),
        pb.Host(hostname="a" * 64),
        pb.Host(hostname=".".join(["a" * 60] * 5)),
        pb.Host(hostname="b\u00fccher.example"),
        pb.Host(hostname="a.b", addresses=[b"123"]),
        pb.Host(hostname="a.b", ports=[pb.Port(number=0)]),
        pb.Host(hostname="a.b", ports=[pb.Port(number=65536)]),
        pb.Host(hostname="a.b", ports=[pb.Port(number=1, target=65536)]),
        pb.Host(hostname="a.b", alias="c..d"),
    ],
)
def test_refuses(host: pb.Host) -> None:
    with pytest.raises(ModelError):
        decode_names(pb.Names(namespace="n", domain="cluster.local", hosts=[host]).SerializeToString())


def test_names_are_compared_in_lower_case() -> None:
    body = encode_names(Names("n", "cluster.local", (Host("API.Example", (ip_address("10.0.0.1"),)),)))
    assert decode_names(body).hosts[0].hostname == "api.example"
