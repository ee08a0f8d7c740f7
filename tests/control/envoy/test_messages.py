"""control/envoy/messages.py: Envoy's messages are there, apart from all others of the process."""

import pytest

from control.envoy.messages import message_class, new, packed, pool


def test_messages_by_name_and_their_fields() -> None:
    cluster = new("envoy.config.cluster.v3.Cluster", name="one", connect_timeout={"seconds": 2})
    assert message_class("envoy.config.cluster.v3.Cluster").FromString(cluster.SerializeToString()).connect_timeout.seconds == 2


def test_extensions_of_filters_and_transports_are_there() -> None:
    for name in (
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        "envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport",
        "envoy.service.ratelimit.v3.RateLimitRequest",
    ):
        assert message_class(name).DESCRIPTOR.full_name == name


def test_a_message_that_envoy_does_not_have() -> None:
    with pytest.raises(KeyError):
        message_class("envoy.config.cluster.v3.Custer")


def test_equal_messages_have_equal_bytes() -> None:
    labels = {"b": "2", "a": "1", "c": "3"}
    structs = [new("google.protobuf.Struct"), new("google.protobuf.Struct")]
    structs[0].update(labels)
    structs[1].update(dict(reversed(labels.items())))
    one, other = map(packed, structs)
    assert one.type_url == "type.googleapis.com/google.protobuf.Struct"
    assert one.value == other.value


def test_the_pool_is_apart() -> None:
    from google.protobuf import descriptor_pool

    assert pool() is not descriptor_pool.Default()
