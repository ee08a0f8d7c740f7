"""control/envoy/patches/http_filters.py: whatever patches are applied, in whatever order, what secures requests stays, and stays ahead."""

from contextlib import suppress
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from control.envoy.messages import new
from control.envoy.parts import extension
from control.envoy.patches.allowed import LIMITING, PatchError, type_name
from control.envoy.patches.holding import Bound
from control.envoy.patches.http_filters import Entry, Rank, _Row
from control.envoy.patches.reading import read_patch
from control.kinds import Kind, ObjectKey
from control.kinds.envoy_filter import ConfigPatch, Operation
from tests.control.envoy.patches.envoy_filters import MANAGER, http_filter, lua, patch

KINDS = {
    "envoy.filters.http.cors": ("cors.v3.Cors", Rank.PREFLIGHT),
    "envoy.filters.http.jwt_authn": ("jwt_authn.v3.JwtAuthentication", Rank.AUTHENTICATES),
    "envoy.filters.http.rbac": ("rbac.v3.RBAC", Rank.AUTHORIZES),
    "nodemesh.rate_limits": ("local_ratelimit.v3.LocalRateLimit", Rank.FIXED),
    "envoy.filters.http.fault": ("fault.v3.HTTPFault", Rank.OPEN),
    "envoy.filters.http.grpc_stats": ("grpc_stats.v3.FilterConfig", Rank.COUNTS),
    "envoy.filters.http.router": ("router.v3.Router", Rank.ROUTER),
}
FIXED = {Rank.AUTHENTICATES, Rank.AUTHORIZES, Rank.FIXED, Rank.ROUTER}
VALUES = (lua("", "a"), http_filter("b", "buffer.v3.Buffer", max_request_bytes=1), http_filter("c", "rbac.v3.RBAC"))
NAMES = st.sampled_from([*KINDS, "a", "b", "c", "nothing", ""])


def entries(secured: bool) -> list[Entry]:
    found = []
    for name, (kind, rank) in KINDS.items():
        if secured or rank not in {Rank.AUTHENTICATES, Rank.AUTHORIZES}:
            config = extension(name, f"filters.http.{kind}")
            found.append(Entry(new("envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter", **config), rank))
    return found


@st.composite
def bounds(draw: st.DrawFn) -> list[Bound]:
    """Patches that are taken, of some objects of some namespaces."""
    found = []
    for number in range(draw(st.integers(1, 8))):
        operation = draw(st.sampled_from(Operation))
        value = None if operation is Operation.REMOVE else draw(st.sampled_from(VALUES))
        filter_class = draw(st.sampled_from(["AUTHN", "AUTHZ", "STATS", ""])) if operation is Operation.ADD else ""
        name = draw(NAMES)
        sub: dict[str, Any] = {"subFilter": {"name": name}} if name else {}
        written = patch("HTTP_FILTER", operation.value, value, filter_class, listener={"filterChain": {"filter": {"name": MANAGER, **sub}}})
        with suppress(PatchError):
            taken = read_patch(msgspec.convert(written, ConfigPatch))
            found.append(Bound(ObjectKey(Kind.ENVOY_FILTER, draw(st.sampled_from(["shop", "istio-system"])), f"p{number}"), number, taken))
    return found


@given(bounds(), st.booleans())
@settings(max_examples=200, deadline=None)
def test_what_secures_stays_and_stays_ahead(patches: list[Bound], secured: bool) -> None:
    own = entries(secured)
    before = [one.message.SerializeToString() for one in own if one.rank in FIXED]
    row = _Row(own, "istio-system")
    for bound in patches:
        row.apply(bound)
    after = [one for one in row.entries if one.rank in FIXED and one.added is None]
    assert [one.message.SerializeToString() for one in after] == before, "all there, in order, as they were"
    assert row.entries[-1].rank is Rank.ROUTER
    secures = [at for at, one in enumerate(row.entries) if one.rank in {Rank.AUTHENTICATES, Rank.AUTHORIZES}]
    for one in row.entries[: max(secures, default=0)]:
        assert one.added is None or type_name(one.message.typed_config) in LIMITING
    assert len(row.applied.problems) <= len(patches)
