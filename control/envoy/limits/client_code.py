"""A few lines of Lua that note of a request's client what Envoy has no attribute for: the namespace of its identity, and its address.

An IPv6 address stands for its network of 64 bits, all of which its owner has. If the lines fail, nothing is noted, and the request is
counted with all others of which nothing is.
"""

from typing import Final

from control.envoy.parts import PEER, PEER_ADDRESS
from control.envoy.rbac.parts import Callers, Identity
from meshapi.spiffe import WorkloadIdentity

_IDENTITIES: Final = {
    Identity.TUNNEL: f'info:filterState():get("{PEER}")',
    Identity.TLS: "info:downstreamSslConnection() and info:downstreamSslConnection():uriSanPeerCertificate()[1]",
}
_SAYS: Final = {
    # Whom to believe is a matter of who calls, and at a gateway it is Envoy's own.
    Identity.TUNNEL: f'relays[id or ""] and info:downstreamRemoteAddress() or info:filterState():get("{PEER_ADDRESS}")',
    Identity.TLS: "info:downstreamRemoteAddress()",
}
_CODE: Final = """
local relays = {%s}
local function network(address)
  local host = string.match(address, "^%%[(.+)%%]:%%d+$")
  if not host then
    return string.match(address, "^(.+):%%d+$")
  end
  local mapped = string.match(host, "^::ffff:(%%d+%%.%%d+%%.%%d+%%.%%d+)$")
  if mapped then
    return mapped
  end
  local groups = {}
  for group in string.gmatch(string.match(host, "^(.-)::") or host, "[^:]+") do
    groups[#groups + 1] = group
  end
  while #groups < 4 do
    groups[#groups + 1] = "0"
  end
  return table.concat(groups, ":", 1, 4) .. "::/64"
end
function envoy_on_request(handle)
  local info = handle:streamInfo()
  local id = %s
  local namespace = id and string.match(id, "^spiffe://[^/]+/ns/([^/]+)/sa/[^/]+$")
  if namespace then
    info:dynamicMetadata():set("%s", "%s", namespace)
  end
  info:dynamicMetadata():set("%s", "%s", network(%s))
end
"""


def client_code(callers: Callers, space: str, namespace: str, address: str) -> str:
    """`space`: the dynamic metadata in which the two are noted, under these keys."""
    # Parsed again: nothing but a SPIFFE id gets into the code.
    relays = ",".join(f'["{WorkloadIdentity.parse(one)}"]=true' for one in callers.relays)
    return _CODE % (relays, _IDENTITIES[callers.identity], space, namespace, space, address, _SAYS[callers.identity])
