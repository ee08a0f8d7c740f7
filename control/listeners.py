"""The controller's two TLS listeners: one for callers with a token, one for agents with a certificate.

Two, because grpcio asks a client for a certificate always or never. Both take their certificate anew for each connection, so that a
renewed certificate, issuer or root is used from the next handshake on.
"""

import logging
from collections.abc import Sequence

from control.ca.leaf import SigningError
from control.ca.server_certificate import ServerCertificate
from control.rpc import RPCHandler, aio, grpc

MAX_AGENT_REQUEST_BYTES = 16 * 1024 * 1024
"""An agent that comes back names all that it holds."""
MAX_STRANGER_REQUEST_BYTES = 64 * 1024
"""Requests are read before their sender has proved itself, so where anyone may send they are as small as a certificate request."""
MAX_CONCURRENT_STREAMS = 32
MAX_METADATA_BYTES = 16 * 1024
log = logging.getLogger(__name__)

OPTIONS: Sequence[tuple[str, int]] = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_concurrent_streams", MAX_CONCURRENT_STREAMS),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 300_000),
    # Only the identity: what a small compressed message unpacks to has no bound.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    # Both sides look after a connection: agents ping each 30 s, so 10 s between pings is no offence.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 3),
    ("grpc.so_reuseport", 0),
)


class ServerTLS:
    """The controller's certificate as grpc takes it; shared by the listeners."""

    def __init__(self, certificate: ServerCertificate) -> None:
        self._certificate = certificate
        self._configuration = self._build()

    def credentials(self, *, client_certificates: bool) -> grpc.ServerCredentials:
        """Credentials of a listener, which asks for client certificates always or never."""
        given = self._configuration

        def changed() -> grpc.ServerCertificateConfiguration | None:
            """Called before each handshake, on grpc's own threads, of which several handshake at once.

            What is returned replaces what those of the others may be reading, without a lock (grpc 1.85: the process ends by a
            fault in its memory). So it is nothing, unless something has changed.
            """
            nonlocal given
            if self._configuration is given:
                return None
            given = self._configuration
            return given

        return grpc.dynamic_ssl_server_credentials(
            given,
            changed,  # type: ignore[arg-type]  # the stubs do not know that nothing may be returned
            require_client_authentication=client_certificates,
        )

    def refresh(self) -> None:
        """Renews the certificate if it is time, and takes over new roots, for the handshakes that follow."""
        try:
            renewed = self._certificate.refresh()
        except SigningError as error:
            log.error("the controller's own certificate can't be renewed: %s", error)  # noqa: TRY400 -- the message says it all
            return
        if renewed:
            self._configuration = self._build()

    def _build(self) -> grpc.ServerCertificateConfiguration:
        certificate = self._certificate
        return grpc.ssl_server_certificate_configuration(
            [(certificate.key_pem, certificate.chain_pem)], root_certificates=certificate.issuer.roots_pem
        )


def make_listener(
    address: str, credentials: grpc.ServerCredentials, handlers: Sequence[RPCHandler], *, max_request_bytes: int
) -> tuple[aio.Server, int]:
    """A server, not started yet, and its port; `address` is `host:port`, port 0 = any. Raises RuntimeError if it can't be bound."""
    server = aio.server(options=(*OPTIONS, ("grpc.max_receive_message_length", max_request_bytes)))
    server.add_generic_rpc_handlers(tuple(handlers))
    return server, server.add_secure_port(address, credentials)
