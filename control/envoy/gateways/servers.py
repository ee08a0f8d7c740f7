"""What a gateway serves at its ports, whoever asks for it: listeners of the Gateway API, and servers of Istio's Gateways.

An Istio Gateway is for the gateways whose labels it selects, of any namespace unless the mesh scopes them, as Istio has it. Certificates
are Secrets of the gateway's namespace, whoever names them; files of the gateway's host may be named from that namespace alone.
"""

from collections.abc import Iterable, Iterator
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from control.envoy.credentials import CONFIG_MAP_SCHEME
from control.envoy.destinations.client_tls import credential
from control.envoy.proxies import ProxyKey, ProxyKind, chosen_by, find_proxy
from control.envoy.routing.grants import Reference, granted
from control.envoy.world import World
from control.kinds import Gateway, IstioGateway, ObjectKey
from control.kinds.gateway import GROUP, FrontendValidation, GatewayListener, ListenerTLS, ObjectReference
from control.kinds.istio_gateway import Server as IstioServer
from control.kinds.istio_gateway import ServerTLS, TLSMode, TLSVersion
from control.validation.gateway_checks import TERMINATE_MODE
from control.validation.istio_gateway_checks import HTTP, split_host

ANY = "*"


class Carries(StrEnum):
    """What connections to a server are. TLS: ended here, and then bytes; PASSTHROUGH: TLS that somebody else ends."""

    HTTP = "http"
    HTTPS = "https"
    TLS = "tls"
    PASSTHROUGH = "passthrough"
    TCP = "tcp"


class Claim(Struct, frozen=True):
    """A host (also `*.name`, `*`) of a server, and the namespace whose rules may say where it goes (`*`: any)."""

    host: str
    namespace: str = ANY


class Files(Struct, frozen=True):
    """A certificate and its key as files of the proxy."""

    certificate: str
    key: str


class Terms(Struct, frozen=True):
    """How TLS is spoken. `certificates` and `roots` are secrets by their names in SDS; `roots_file` is a file of the proxy.

    `asks`: clients are asked for a certificate; `requires`: without one they are refused. `own`: by the SVID, with the mesh's roots.
    """

    certificates: tuple[str, ...] = ()
    files: tuple[Files, ...] = ()
    roots: str = ""
    roots_file: str = ""
    asks: bool = False
    requires: bool = False
    own: bool = False
    least: TLSVersion = TLSVersion.AUTO
    most: TLSVersion = TLSVersion.AUTO
    ciphers: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    hashes: tuple[str, ...] = ()


class Server(Struct, frozen=True):
    """One port, and hosts there. `name` is unique within the owner; `problem`: why it can't be served."""

    owner: ObjectKey
    name: str
    port: int
    carries: Carries
    claims: tuple[Claim, ...] = (Claim(ANY),)
    terms: Terms | None = None
    redirect: bool = False
    bind: str = ""
    problem: str = ""

    @property
    def gateway(self) -> str:
        """What rules call it."""
        return f"{self.owner.namespace}/{self.owner.name}"

    @property
    def named(self) -> tuple[str, ...]:
        """The secrets without which it can't be served: its certificates, and roots that it names apart from them."""
        terms = self.terms
        if terms is None:
            return ()
        return (*terms.certificates, *((terms.roots,) if terms.roots.startswith(CONFIG_MAP_SCHEME) else ()))

    @property
    def secure(self) -> bool:
        return self.carries is Carries.HTTPS

    @property
    def told_by_name(self) -> bool:
        """Whether the name that a client of TLS asks for leads here."""
        return self.carries in {Carries.HTTPS, Carries.TLS, Carries.PASSTHROUGH}


def servers_of(world: World, key: ProxyKey) -> tuple[Server, ...]:
    """All servers of a gateway: its own listeners, then those of Istio's Gateways, oldest first."""
    proxy = world.ask(find_proxy, key)
    if proxy is None or proxy.kind is not ProxyKind.GATEWAY:
        return ()
    gateway = world.find(Gateway, key.namespace, key.name)
    found = [_of_listener(world, gateway, one) for one in gateway.spec.listeners] if gateway is not None else []
    for istio in chosen_by(world, key.namespace, proxy.labels):
        found += [_of_server(istio, one, index, key.namespace) for index, one in enumerate(istio.spec.servers)]
    return tuple(_distinct(found))


def _distinct(servers: Iterable[Server]) -> Iterator[Server]:
    """What is served by name is called after its server: with one name for two, who is let in by one would be with the other's hosts."""
    taken: set[tuple[int, str]] = set()
    for server in servers:
        name, again = server.name, 0
        while (called := (server.port, f"{name}.{server.owner.name}.{server.owner.namespace}")) in taken:
            again += 1
            name = f"{server.name}~{again}"
        taken.add(called)
        yield server if name == server.name else replace(server, name=name)


# ---- Istio's


def _of_server(gateway: IstioGateway, server: IstioServer, index: int, home: str) -> Server:
    """`home`: the namespace of the gateway that serves it."""
    namespace = gateway.metadata.namespace
    terms = _terms(server.tls, home) if server.tls is not None and _ends_tls(server) else None
    claims = tuple(Claim(host, namespace if where == "." else where) for where, host in map(split_host, server.hosts))
    return Server(
        owner=gateway.key,
        name=server.name or server.port.name or str(index),
        port=server.port.number,
        carries=_carried(server),
        claims=claims,
        terms=terms,
        redirect=server.tls is not None and server.tls.https_redirect,
        bind=server.bind,
        problem=_beyond(server, terms, home) if namespace != home else "",
    )


def _beyond(server: IstioServer, terms: Terms | None, home: str) -> str:
    """What only the gateway's own namespace may say: it would be so for everybody's servers there."""
    if terms is not None and (terms.files or terms.roots_file):
        return f"it names files of a gateway of namespace {home}: take credentialName"
    return f"where a gateway of namespace {home} listens is that namespace's to say: leave out bind" if server.bind else ""


def _carried(server: IstioServer) -> Carries:
    if server.port.protocol in HTTP:
        return Carries.HTTP
    if server.port.protocol not in {"HTTPS", "TLS"}:
        return Carries.TCP
    if not _ends_tls(server):
        return Carries.PASSTHROUGH
    return Carries.HTTPS if server.port.protocol == "HTTPS" else Carries.TLS


def _ends_tls(server: IstioServer) -> bool:
    return server.port.protocol in {"HTTPS", "TLS"} and server.tls is not None and server.tls.mode is not TLSMode.PASSTHROUGH


def _terms(tls: ServerTLS, namespace: str) -> Terms:
    stated = [name.removeprefix("kubernetes://") for name in (tls.credential_name, *tls.credential_names) if name]
    files = [(tls.server_certificate, tls.private_key), *((one.server_certificate, one.private_key) for one in tls.tls_certificates)]
    asks = tls.mode in {TLSMode.MUTUAL, TLSMode.OPTIONAL_MUTUAL, TLSMode.ISTIO_MUTUAL}
    own = tls.mode is TLSMode.ISTIO_MUTUAL
    roots = tls.ca_cert_credential_name or (f"{stated[0]}-cacert" if stated else "")
    return Terms(
        certificates=tuple(credential(namespace, name) for name in stated),
        files=tuple(Files(*pair) for pair in files if any(pair)),
        roots=credential(namespace, roots) if asks and not own and roots and not tls.ca_certificates else "",
        roots_file=tls.ca_certificates,
        asks=asks,
        requires=asks and tls.mode is not TLSMode.OPTIONAL_MUTUAL,
        own=own,
        least=tls.min_protocol_version,
        most=tls.max_protocol_version,
        ciphers=tls.cipher_suites,
        names=tls.subject_alt_names,
        keys=tls.verify_certificate_spki,
        hashes=tls.verify_certificate_hash,
    )


# ---- the Gateway API's

_PROTOCOLS = {"HTTP": Carries.HTTP, "HTTPS": Carries.HTTPS, "TLS": Carries.TLS, "TCP": Carries.TCP}


def _of_listener(world: World, gateway: Gateway, listener: GatewayListener) -> Server:
    carries = _PROTOCOLS.get(listener.protocol)
    problem = "" if carries is not None else f"the listener {listener.name}: {listener.protocol[:40]} is not served"
    terms: Terms | None = None
    if listener.tls is not None and listener.tls.mode == "Passthrough":
        carries = Carries.PASSTHROUGH
    elif listener.tls is not None:
        terms, refused = _listener_terms(world, gateway, listener, listener.tls)
        problem = problem or refused
    return Server(
        owner=gateway.key,
        name=listener.name,
        port=listener.port,
        carries=carries or Carries.TCP,
        claims=(Claim(listener.hostname or ANY),),
        terms=terms,
        problem=problem,
    )


def _listener_terms(world: World, gateway: Gateway, listener: GatewayListener, tls: ListenerTLS) -> tuple[Terms, str]:
    """The terms, and why they can't be had."""
    mode = tls.options.get(TERMINATE_MODE, "SIMPLE")
    names = [_secret(world, gateway, one) for one in tls.certificate_refs]
    problem = next((text for name, text in names if not name), "")
    asks, own = mode != "SIMPLE", mode == "ISTIO_MUTUAL"
    certificates = tuple(name for name, _ in names if name)
    validation = tls.frontend_validation or _common_validation(gateway, listener.port)
    if validation is not None:
        roots, refused = _client_roots(world, gateway, validation)
        if asks:
            refused = f"the listener {listener.name}: by what clients are verified is said twice, also by the option {TERMINATE_MODE}"
        return Terms(certificates, roots=roots, asks=True, requires=True), problem or refused
    roots = f"{certificates[0]}-cacert" if asks and not own and certificates else ""
    return Terms(certificates, roots=roots, asks=asks, requires=asks and mode != "OPTIONAL_MUTUAL", own=own), problem


def _client_roots(world: World, gateway: Gateway, validation: FrontendValidation) -> tuple[str, str]:
    """The name of the secret with the roots of clients, or why it may not be had."""
    own, (reference, *others) = gateway.metadata.namespace, validation.ca_certificate_refs
    where = reference.namespace or own
    if validation.mode != "AllowValidOnly":
        return (
            "",
            f"{validation.mode} is not served: it lets in whatever certificate there is (the option {TERMINATE_MODE}: OPTIONAL_MUTUAL)",
        )
    if others or (reference.group, reference.kind) not in {("", "ConfigMap"), ("core", "ConfigMap")}:
        return "", "roots of clients are those of one ConfigMap"
    if not world.ask(granted, Reference(GROUP, "Gateway", own, "", "ConfigMap", where, reference.name)):
        return "", f"no ReferenceGrant of namespace {where} lets it name ConfigMap {where}/{reference.name}"
    return f"{CONFIG_MAP_SCHEME}{where}/{reference.name}", ""


def _common_validation(gateway: Gateway, port: int) -> FrontendValidation | None:
    asked = gateway.spec.tls.frontend if gateway.spec.tls is not None else None
    if asked is None:
        return None
    return next((one.tls.validation for one in asked.per_port if one.port == port), asked.default.validation)


def _secret(world: World, gateway: Gateway, reference: ObjectReference) -> tuple[str, str]:
    """The name of a secret, or why it may not be named."""
    own = gateway.metadata.namespace
    where = reference.namespace or own
    if (reference.group, reference.kind) not in {("", "Secret"), ("core", "Secret")}:
        return "", f"a {reference.kind[:40]} holds no certificate"
    if not world.ask(granted, Reference(GROUP, "Gateway", own, "", "Secret", where, reference.name)):
        return "", f"no ReferenceGrant of namespace {where} lets it name Secret {where}/{reference.name}"
    return credential(where, reference.name), ""
