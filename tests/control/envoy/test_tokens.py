"""control/envoy/tokens.py: a real Envoy takes the tokens that policies call good, refuses all others, and policies see what is in them."""

import base64
import http.client
import http.server
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from control.envoy.rbac.filters import http_judges
from control.envoy.rbac.parts import Callers, Identity
from control.envoy.tokens import KeyServer, may_fetch, token_filter
from control.envoy.unsigned import nobodys_key_set
from control.kinds import AuthorizationPolicy, RequestAuthentication
from demo.cluster import eventually
from tests.control.envoy.real_envoy import as_json, http_listener, running

CALLERS = Callers(Identity.TUNNEL)


def text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Issuer:
    """Signs tokens (RFC 7519) by ES256."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._key = ec.generate_private_key(ec.SECP256R1())

    @property
    def keys(self) -> str:
        numbers = self._key.public_key().public_numbers()
        x, y = (text(number.to_bytes(32, "big")) for number in (numbers.x, numbers.y))
        return json.dumps({"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": self.name, "x": x, "y": y}]})

    def token(self, *, age_s: float = 0, **claims: Any) -> str:
        claims = {"iss": self.name, "sub": "cook", "exp": int(time.time() - age_s) + 300, **claims}
        head = {"alg": "ES256", "typ": "JWT", "kid": self.name}
        signed = ".".join(text(json.dumps(part).encode()) for part in (head, claims))
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{text(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def authentication(*rules: dict[str, Any], name: str = "p") -> RequestAuthentication:
    return msgspec.convert({"metadata": {"name": name, "namespace": "shop"}, "spec": {"jwtRules": list(rules)}}, RequestAuthentication)


ME, YOU, REMOTE, FORGER = Issuer("me"), Issuer("you"), Issuer("remote"), Issuer("me")


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers with the headers it got; at /keys with the remote issuer's keys."""

    def do_GET(self) -> None:
        body = REMOTE.keys if self.path == "/keys" else json.dumps({name.lower(): value for name, value in self.headers.items()})
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Silence."""


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def cluster(name: str, port: int) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory, server: int) -> Iterator[int]:
    plain = {
        "issuer": "me",
        "jwks": ME.keys,
        "audiences": ["shop"],
        "outputPayloadToHeader": "x-payload",
        "outputClaimToHeaders": [{"header": "x-sub", "claim": "sub"}, {"header": "x-role", "claim": "realm.role"}],
    }
    elsewhere = {
        "issuer": "you",
        "jwks": YOU.keys,
        "fromHeaders": [{"name": "x-token", "prefix": "T "}],
        "fromParams": ["token"],
        "fromCookies": ["biscuit"],
        "forwardOriginalToken": True,
    }
    fetched = {"issuer": "remote", "jwksUri": f"http://127.0.0.1:{server}/keys"}
    forbidden = {"issuer": "nowhere", "jwksUri": "https://keys.evil.test/keys"}
    tokens = token_filter([authentication(plain, elsewhere), authentication(fetched, forbidden, name="q")], frozenset({"127.0.0.1"}))
    assert tokens.key_servers == (KeyServer("127.0.0.1", server, tls=False),)
    assert [name for name, _ in tokens.refused] == ["shop/q"]
    denied = {
        "action": "DENY",
        "rules": [{"to": [{"operation": {"paths": ["/closed"]}}], "from": [{"source": {"notRequestPrincipals": ["me/cook"]}}]}],
    }
    policy = msgspec.convert({"metadata": {"name": "deny", "namespace": "shop"}, "spec": denied}, AuthorizationPolicy)
    filters = [as_json(tokens.filter), *(as_json(one) for one in http_judges([policy], CALLERS).filters)]
    route = {"match": {"prefix": "/"}, "route": {"cluster": "echo"}}
    listener = http_listener("in", filters, [route])
    clusters = [cluster("echo", server), *(cluster(one.cluster, one.port) for one in tokens.key_servers)]
    with running(tmp_path_factory.mktemp("envoy"), [listener], clusters) as envoy:
        yield envoy.ports["in"]


def ask(port: int, path: str = "/", **headers: str) -> tuple[int, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        body = answer.read()
        return answer.status, json.loads(body) if answer.status == 200 else {}
    finally:
        connection.close()


def bearer(token: str) -> str:
    return f"Bearer {token}"


def test_no_token_passes_and_brings_no_claims_of_its_own(port: int) -> None:
    status, seen = ask(port, x_sub="admin", x_payload="forged", x_role="cook")
    assert status == 200
    assert not {"x-sub", "x-payload", "x-role"} & set(seen), "what only a token may say was said by the request"


def test_a_good_token_and_what_is_in_it(port: int) -> None:
    status, seen = ask(port, authorization=bearer(ME.token(aud="shop", realm={"role": "chef"})), x_sub="admin")
    assert status == 200
    assert (seen["x-sub"], seen["x-role"]) == ("cook", "chef")
    payload = seen["x-payload"]
    assert json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["sub"] == "cook"
    assert "authorization" not in seen


@pytest.mark.parametrize(
    "token",
    [
        FORGER.token(aud="shop"),
        ME.token(aud="shop", age_s=1000),
        Issuer("unknown").token(),
        Issuer("nowhere").token(),
        "rubbish",
        ME.token(aud="shop")[:-8],
    ],
    ids=["forged", "expired", "of an unknown issuer", "of one whose keys can't be had", "rubbish", "cut"],
)
def test_bad_tokens(port: int, token: str) -> None:
    assert ask(port, authorization=bearer(token))[0] == 401


def test_a_token_for_another(port: int) -> None:
    assert ask(port, authorization=bearer(ME.token(aud="other")))[0] == 403
    assert ask(port, authorization=bearer(ME.token()))[0] == 403


def test_a_token_signed_by_nothing(port: int) -> None:
    head = text(json.dumps({"alg": "none", "typ": "JWT"}).encode())
    claims = text(json.dumps({"iss": "me", "sub": "cook", "aud": "shop", "exp": int(time.time()) + 300}).encode())
    assert ask(port, authorization=bearer(f"{head}.{claims}."))[0] == 401


def test_tokens_in_other_places(port: int) -> None:
    good, bad = YOU.token(), FORGER.token(iss="you")
    assert ask(port, x_token=f"T {good}")[0] == 200
    assert ask(port, f"/?token={good}")[0] == 200
    assert ask(port, cookie=f"biscuit={good}")[0] == 200
    assert [ask(port, x_token=f"T {bad}")[0], ask(port, f"/?token={bad}")[0], ask(port, cookie=f"biscuit={bad}")[0]] == [401] * 3
    assert ask(port, x_token=f"T {good}")[1]["x-token"] == f"T {good}", "it was asked to go on"


def test_keys_that_are_fetched(port: int) -> None:
    token = bearer(REMOTE.token())
    eventually(lambda: ask(port, authorization=token)[0] == 200, "a token whose keys were fetched")
    assert ask(port, authorization=bearer(Issuer("remote").token()))[0] == 401


def test_policies_ask_for_what_tokens_say(port: int) -> None:
    assert ask(port, "/closed")[0] == 403
    assert ask(port, "/closed", authorization=bearer(ME.token(aud="shop", sub="waiter")))[0] == 403
    assert ask(port, "/closed", authorization=bearer(ME.token(aud="shop")))[0] == 200


def test_without_policies_there_is_no_filter() -> None:
    assert token_filter([], frozenset()).filter is None


def test_hosts_that_keys_may_be_fetched_from() -> None:
    allowed = frozenset({"a.test", "*.b.test"})
    assert [may_fetch(host, allowed) for host in ("a.test", "x.b.test", "y.x.b.test")] == [True] * 3
    assert [may_fetch(host, allowed) for host in ("b.test", "xa.test", "a.test.evil", "xb.test", "")] == [False] * 5


def test_nobodys_key_is_a_point_of_the_curve_and_always_the_same() -> None:
    (key,) = json.loads(nobodys_key_set())["keys"]
    x, y = (int.from_bytes(base64.urlsafe_b64decode(key[name] + "="), "big") for name in ("x", "y"))
    assert ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key().key_size == 256, "raises for what is no point"
