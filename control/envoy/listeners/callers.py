"""Whose certificates a tunnel is taken from: exactly one SPIFFE id, and not one that was revoked when it had been issued.

TLS verifies chain and trust domain; Envoy knows no revocation by the time of issue, so a few lines of Lua at the end of each tunnel ask
for it, once for each CONNECT. They come with the routes, since a listener that changes drains its tunnels. An error in them refuses:
Envoy alone would go on without them.
"""

from collections.abc import Iterable
from typing import Any, Final

from control.envoy.messages import new, packed
from control.envoy.parts import extension
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


def caller_filter() -> dict[str, Any]:
    """The HTTP filter; without the routes' word on revocations it takes exactly one name all the same."""
    return extension(LUA, "filters.http.lua.v3.Lua", default_source_code={"inline_string": _CODE % ""})


def caller_settings(revocations: Iterable[Revocation]) -> dict[str, Any]:
    """What the routes say to it."""
    # Parsed again: nothing but a SPIFFE id gets into the code.
    entries = (f'["{WorkloadIdentity.parse(one.identity)}"]={int(one.issued_before_s)}' for one in revocations)
    code = _CODE % ",".join(entries)
    return {LUA: packed(new("envoy.extensions.filters.http.lua.v3.LuaPerRoute", source_code={"inline_string": code}))}
