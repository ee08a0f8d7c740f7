"""Asks the controller to sign: CreateCertificate over gRPC."""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from meshapi.proto.certificates_pb2 import IstioCertificateRequest, IstioCertificateResponse
from nodeagent.xds.channel import Dial, is_cancelled, open_channel

METHOD: Final = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
DEADLINE_S: Final = 10.0
VALIDITY_S: Final = 86_400
AGENT_VALIDITY_S: Final = 30 * 86_400
"""An agent whose certificate expired needs a new join token: it must outlast the controller's absence by far."""
MAX_REASON_CHARS: Final = 500


class AuthorityError(Exception):
    """No certificate was got, and why."""


class Authority(Protocol):
    """Whoever signs."""

    async def sign(self, request_pem: str, *, on_behalf_of: str | None = None) -> tuple[str, ...]:
        """Returns the chain (PEM): leaf, intermediates, roots last. Without `on_behalf_of` it is for the caller itself."""


class SpentToken:
    """Of an agent that joined before it was started, and has nothing but the certificate that it got then."""

    async def sign(self, request_pem: str, *, on_behalf_of: str | None = None) -> tuple[str, ...]:  # noqa: ARG002 - the interface's
        """Raises AuthorityError, always."""
        raise AuthorityError("its certificate is gone or has expired: leave, and join again with a new bundle")


class CertificateService:
    """The controller's certificate authority.

    `dial` is called before each request, in a thread; a channel is kept as long as it says the same. The controller may shorten
    `validity_s`.
    """

    def __init__(self, dial: Callable[[], Dial], *, validity_s: int = VALIDITY_S, deadline_s: float = DEADLINE_S) -> None:
        self._dial = dial
        self._validity_s = validity_s
        self._deadline_s = deadline_s
        self._open: tuple[Dial, grpc.aio.Channel] | None = None
        self._opening = asyncio.Lock()

    async def sign(self, request_pem: str, *, on_behalf_of: str | None = None) -> tuple[str, ...]:
        """Raises AuthorityError."""
        request = IstioCertificateRequest(csr=request_pem, validity_duration=self._validity_s)
        if on_behalf_of is not None:
            request.metadata.update({"ImpersonatedIdentity": on_behalf_of})
        try:
            async with self._opening:
                dial, channel = await self._channel()
        except (OSError, ValueError) as error:
            raise AuthorityError(f"credentials: {error}") from error
        call = channel.unary_unary(METHOD, None, None)
        try:
            body = await call(request.SerializeToString(), metadata=dial.metadata(), timeout=self._deadline_s)
            return tuple(IstioCertificateResponse.FromString(body).cert_chain)
        except grpc.aio.AioRpcError as error:
            raise AuthorityError(f"{error.code().name}: {error.details()}"[:MAX_REASON_CHARS]) from error
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            raise AuthorityError("the credentials changed under way") from None
        except DecodeError as error:
            raise AuthorityError(f"no certificate response: {error}") from error

    async def close(self) -> None:
        """Ends the channel; the next request opens another."""
        if self._open is not None:
            _, channel = self._open
            self._open = None
            await channel.close(None)

    async def _channel(self) -> tuple[Dial, grpc.aio.Channel]:
        dial = await asyncio.to_thread(self._dial)
        if self._open is None or self._open[0] != dial:
            await self.close()
            self._open = (dial, open_channel(dial))
        return self._open
