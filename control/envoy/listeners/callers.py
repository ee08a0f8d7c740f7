"""Whose certificates a tunnel is taken from: exactly one SPIFFE id, and not one that was revoked when it had been issued.

TLS verifies chain and trust domain; Envoy knows no revocation by the time of issue, so a few lines of Lua at the end of each tunnel ask
for it, once for each CONNECT. They come with the routes, and are in force at once. An error in them refuses: Envoy alone would go on
without them. Of what is open Envoy can't end one caller's alone: the filter chain is another one with each revocation, and with each root
that is gone, so that all tunnels end within the drain time; whoever may call dials again.
"""

from collections.abc import Iterable
from hashlib import blake2b
from typing import Any, Final

from control.envoy.messages import new, packed
from control.envoy.parts import extension
from control.envoy.world import Distrusted
from meshapi.spiffe import WorkloadIdentity
from meshapi.trust import Revocation

LUA: Final = "nodemesh.callers"
"""Not the usual name of such filters, under which routes would configure those of users."""
_CODE: Final = """
local issued_before = {%s}
local function taken(handle)
  local tls = handle:streamInfo():downstreamSslConnection()
  local names = tls:uriSanPeerCertificate()
  return #names == 1 and tls:validFromPeerCertificate() >= (issued_before[names[1]] or 0)
end
function envoy_on_request(handle)
  local ran, good = pcall(taken, handle)
  if not (ran and good) then
    handle:respond({[":status"] = "401"}, "this certificate is not taken here\\n")
  end
end
"""


_METADATA: Final = "nodemesh.callers"


def caller_generation(distrusted: Distrusted) -> dict[str, Any]:
    """Metadata of a filter chain, another whenever somebody is trusted no more."""
    revoked = (f"{one.identity} {one.issued_before_s}" for one in sorted(distrusted.revocations))
    text = ",".join((*revoked, *distrusted.former_roots))
    fields = {"distrusted": {"string_value": blake2b(text.encode(), digest_size=8).hexdigest() if text else ""}}
    return {"filter_metadata": {_METADATA: new("google.protobuf.Struct", fields=fields)}}


def caller_filter() -> dict[str, Any]:
    """The HTTP filter; without the routes' word on revocations it takes exactly one name all the same."""
    return extension(LUA, "filters.http.lua.v3.Lua", default_source_code={"inline_string": _CODE % ""})


def caller_settings(revocations: Iterable[Revocation]) -> dict[str, Any]:
    """What the routes say to it."""
    # Parsed again: nothing but a SPIFFE id gets into the code.
    entries = (f'["{WorkloadIdentity.parse(one.identity)}"]={int(one.issued_before_s)}' for one in revocations)
    code = _CODE % ",".join(entries)
    return {LUA: packed(new("envoy.extensions.filters.http.lua.v3.LuaPerRoute", source_code={"inline_string": code}))}
