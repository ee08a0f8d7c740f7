"""The one import of grpc in the controller, and what each call is read with."""

import os
from typing import TypeAlias

# Before the import: with fork support grpc installs handlers that crash beside threads, and nothing here forks.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "false"

import grpc
from grpc import aio

from control.ca.callers import Credentials
from control.ca.refusal import BusyError, ForbiddenError, MalformedError, RefusedError, UnauthenticatedError, UnavailableError

__all__ = ["END_OF_STREAM", "RPCHandler", "aio", "credentials_of", "grpc", "status_of"]

# Text, since only the stubs know the parameters.
RPCHandler: TypeAlias = "grpc.GenericRpcHandler[bytes, bytes]"

END_OF_STREAM: object = aio.EOF  # type: ignore[attr-defined] # the stubs lack it
"""What reading from a stream gives when the client has closed its side."""


def credentials_of(context: "aio.ServicerContext[bytes, bytes]") -> Credentials:
    """What the caller of this call showed."""
    metadata: dict[str, list[str]] = {}
    for key, value in context.invocation_metadata() or ():
        metadata.setdefault(key, []).append(value if isinstance(value, str) else "")
    transport = context.auth_context()
    leaf = tuple(transport.get("x509_pem_cert", ()))
    # Some versions repeat the leaf in the chain.
    chain = tuple(one for entry in transport.get("x509_pem_cert_chain", ()) for one in _split_pem(entry) if one not in leaf)
    cluster = metadata.get("clusterid")
    return Credentials(
        peer=context.peer(),
        cluster=",".join(cluster) if cluster else None,
        authorization=tuple(metadata.get("authorization", ())),
        certificates=(*leaf, *chain) if len(leaf) == 1 else (),
    )


def status_of(error: RefusedError) -> tuple[grpc.StatusCode, str]:
    """What the caller is told: of a failed proof or a missing right only that, never which check."""
    match error:
        case UnauthenticatedError():
            return grpc.StatusCode.UNAUTHENTICATED, "not authenticated"
        case ForbiddenError():
            return grpc.StatusCode.PERMISSION_DENIED, "permission denied"
        case MalformedError():
            return grpc.StatusCode.INVALID_ARGUMENT, error.detail
        case BusyError():
            return grpc.StatusCode.RESOURCE_EXHAUSTED, "too many requests"
        case UnavailableError():
            return grpc.StatusCode.UNAVAILABLE, "tokens can't be checked now"
    return grpc.StatusCode.INTERNAL, "refused"


def _split_pem(bundle: bytes) -> list[bytes]:
    end = b"-----END CERTIFICATE-----\n"
    return [part + end for part in bundle.split(end) if part.strip()]
