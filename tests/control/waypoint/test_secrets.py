"""control/waypoint/secrets.py: Envoy gets what it asks for as soon as it is there, and again when it is another."""

import pytest
from google.protobuf.message import DecodeError

from control.envoy.messages import message_class, new
from control.waypoint.secrets import Held, SecretStream

HELD = Held("chain", "key", b"roots")


def request(*names: str, **more: object) -> bytes:
    return bytes(new("envoy.service.discovery.v3.DiscoveryRequest", resource_names=names, **more).SerializeToString())


def read(body: bytes | None) -> dict[str, object]:
    assert body is not None
    response = message_class("envoy.service.discovery.v3.DiscoveryResponse").FromString(body)
    kind = message_class("envoy.extensions.transport_sockets.tls.v3.Secret")
    return {one.name: one for one in (kind.FromString(packed.value) for packed in response.resources)}


def test_the_certificate_with_its_key() -> None:
    stream = SecretStream()
    stream.request(request("default"))
    pair = read(stream.response(HELD))["default"].tls_certificate
    assert (pair.certificate_chain.inline_string, pair.private_key.inline_string) == ("chain", "key")


def test_the_roots() -> None:
    stream = SecretStream()
    stream.request(request("ROOTCA"))
    assert read(stream.response(HELD))["ROOTCA"].validation_context.trusted_ca.inline_bytes == b"roots"


def test_nothing_is_sent_twice_and_nothing_before_it_is_there() -> None:
    stream = SecretStream()
    stream.request(request("default"))
    assert stream.response(None) is None
    assert stream.response(HELD) is not None
    stream.request(request("default", response_nonce="1", version_info="1"))
    assert stream.response(HELD) is None
    assert read(stream.response(Held("chain", "another", b"roots")))["default"].tls_certificate.private_key.inline_string == "another"


def test_a_name_that_is_none_is_answered_with_nothing() -> None:
    stream = SecretStream()
    stream.request(request("../key"))
    assert stream.response(HELD) is None


def test_what_envoy_refuses_is_told() -> None:
    stream = SecretStream()
    assert stream.request(request("default")) is None
    assert stream.request(request("default", error_detail={"code": 13, "message": "no PEM"})) == "no PEM"


def test_bytes_that_are_no_request() -> None:
    with pytest.raises(DecodeError):
        SecretStream().request(b"\xff\xff")


def test_a_key_is_in_no_text() -> None:
    assert "key" not in repr(HELD)
