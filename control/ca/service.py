"""The gRPC edge of the certificate authority."""

import logging

from control.ca.issuance import Issuance
from control.ca.leaf import SigningError
from control.ca.refusal import RefusedError
from control.rpc import RPCHandler, aio, credentials_of, grpc, status_of

SERVICE = "istio.v1.auth.IstioCertificateService"
log = logging.getLogger(__name__)


def certificate_handler(issuance: Issuance) -> RPCHandler:
    """Serves CreateCertificate; messages stay bytes until the caller has proved itself."""

    async def create(body: bytes, context: "aio.ServicerContext[bytes, bytes]") -> bytes:
        credentials = credentials_of(context)
        try:
            return await issuance.create(credentials, body)
        except RefusedError as error:
            code, details = status_of(error)
        except (SigningError, OSError) as error:
            log.error("no certificate for %s: %s", credentials.peer, error)  # noqa: TRY400 -- the message says it all
            code, details = grpc.StatusCode.UNAVAILABLE, "certificates can't be issued now"
        await context.abort(code, details)
        raise AssertionError("abort raises")

    return grpc.method_handlers_generic_handler(SERVICE, {"CreateCertificate": grpc.unary_unary_rpc_method_handler(create)})
