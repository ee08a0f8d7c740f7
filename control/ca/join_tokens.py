"""Join tokens: what a node without a certificate proves itself with, once.

A token is `nmj1.<id>.<secret>` with a secret of 256 random bits. Only the secret's hash is kept; at that length a plain hash can't be
guessed back. Where the records are, and that two uses at once can't both find one unused, is the business of a `TokenStore`.
"""

import hashlib
import hmac
import secrets

from msgspec.structs import replace

from control.ca.refusal import UnauthenticatedError
from control.ca.token_records import Records, TokenRecord, TokenStore
from meshapi.spiffe import check_segment

PREFIX = "nmj1"
MAX_TOKEN_CHARACTERS = 128
MAX_TTL_S = 7 * 24 * 3600
KEPT_AFTER_END_S = 24 * 3600


class TooManyTokensError(Exception):
    """More unused tokens than a mesh has use for."""


class JoinTokens:
    """The tokens of a mesh."""

    def __init__(self, store: TokenStore) -> None:
        self._store = store

    async def create(self, node: str, ttl_s: int, now_s: float) -> tuple[TokenRecord, str]:
        """Makes a token for `node` and returns it: it can't be read again. Raises IdentityError for a name that no node can have."""
        check_segment(node)
        return await self._create(TokenRecord("", node, "", int(now_s), int(now_s) + ttl_s), ttl_s, now_s)

    async def create_for_gateway(self, namespace: str, name: str, ttl_s: int, now_s: float) -> tuple[TokenRecord, str]:
        """Makes a token for an Envoy of a Gateway; raises as `create` does."""
        gateway = f"{check_segment(namespace)}/{check_segment(name)}"
        return await self._create(TokenRecord("", "", "", int(now_s), int(now_s) + ttl_s, gateway=gateway), ttl_s, now_s)

    async def _create(self, made: TokenRecord, ttl_s: int, now_s: float) -> tuple[TokenRecord, str]:
        if not 0 < ttl_s <= MAX_TTL_S:
            raise ValueError(f"a token lives 1 to {MAX_TTL_S} seconds")
        secret = secrets.token_urlsafe(32)
        record = replace(made, id=secrets.token_hex(6), secret_sha256=_digest(secret))

        def added(records: Records) -> Records:
            kept = {key: one for key, one in records.items() if one.expires_s + KEPT_AFTER_END_S > now_s}
            if len(kept) >= self._store.limit:
                raise TooManyTokensError(f"there are {len(kept)} tokens already: revoke those that are not needed")
            return {**kept, record.id: record}

        await self._store.change(added)
        return record, f"{PREFIX}.{record.id}.{secret}"

    def check(self, token: str, now_s: float) -> TokenRecord:
        """Returns the record of a token that may be used; raises UnauthenticatedError with the check that failed."""
        match token.split(".") if len(token) <= MAX_TOKEN_CHARACTERS else []:
            case [prefix, key, secret] if prefix == PREFIX:
                pass
            case _:
                raise UnauthenticatedError("token-form", "is no join token")
        record = self._store.records.get(key)
        # The comparison happens for an unknown id too, against a hash that nothing has.
        if not hmac.compare_digest(_digest(secret), record.secret_sha256 if record else "0" * 64) or record is None:
            raise UnauthenticatedError("token-unknown", "no such token")
        self._check_usable(record, now_s)
        return record

    async def use(self, key: str, now_s: float) -> None:
        """Marks the token as used, for good; raises UnauthenticatedError if it was used, revoked or has expired meanwhile."""

        def used(records: Records) -> Records:
            if (record := records.get(key)) is None:
                raise UnauthenticatedError("token-unknown", f"token {key} was revoked")
            self._check_usable(record, now_s)
            return {**records, key: replace(record, used_s=int(now_s))}

        await self._store.change(used)

    async def revoke(self, key: str) -> bool:
        """Forgets a token by its id; whether it was there."""
        found = False

        def without(records: Records) -> Records:
            nonlocal found
            found = key in records
            return {other: record for other, record in records.items() if other != key}

        await self._store.change(without)
        return found

    def all(self) -> tuple[TokenRecord, ...]:
        return tuple(sorted(self._store.records.values(), key=lambda record: (record.created_s, record.id)))

    @staticmethod
    def _check_usable(record: TokenRecord, now_s: float) -> None:
        if record.used_s is not None:
            raise UnauthenticatedError("token-replayed", f"token {record.id} of {record.holder} was used before")
        if now_s >= record.expires_s:
            raise UnauthenticatedError("token-expired", f"token {record.id} of {record.holder} has expired")


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
