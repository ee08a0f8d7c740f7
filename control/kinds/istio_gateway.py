"""Istio's Gateway: the ports and hosts that an Envoy at the mesh's edge serves, and by what certificates.

Not to be taken for the Gateway API's kind of that name (`control.kinds.gateway`): that one asks for an Envoy, this one configures Envoys
that are there, chosen by labels. Unknown fields are errors: a condition on clients that is not read would let others in.
"""

from enum import StrEnum
from typing import ClassVar

from msgspec import field

from control.kinds.core import Object
from control.kinds.metadata import Kind
from control.kinds.routing import Strict


class TLSMode(StrEnum):
    PASSTHROUGH = "PASSTHROUGH"
    SIMPLE = "SIMPLE"
    MUTUAL = "MUTUAL"
    OPTIONAL_MUTUAL = "OPTIONAL_MUTUAL"
    AUTO_PASSTHROUGH = "AUTO_PASSTHROUGH"
    ISTIO_MUTUAL = "ISTIO_MUTUAL"


class TLSVersion(StrEnum):
    AUTO = "TLS_AUTO"
    V1_0 = "TLSV1_0"
    V1_1 = "TLSV1_1"
    V1_2 = "TLSV1_2"
    V1_3 = "TLSV1_3"


class TLSFiles(Strict, frozen=True):
    """A certificate and its key in the file system of the proxy."""

    server_certificate: str = ""
    private_key: str = ""
    ca_certificates: str = ""


class ServerTLS(Strict, frozen=True):
    """`https_redirect` stands alone at ports of HTTP; everything else says how TLS is spoken."""

    https_redirect: bool = False
    mode: TLSMode = TLSMode.PASSTHROUGH
    server_certificate: str = ""
    private_key: str = ""
    ca_certificates: str = ""
    ca_crl: str = ""
    credential_name: str = ""
    credential_names: tuple[str, ...] = ()
    ca_cert_credential_name: str = ""
    tls_certificates: tuple[TLSFiles, ...] = ()
    subject_alt_names: tuple[str, ...] = ()
    verify_certificate_spki: tuple[str, ...] = ()
    verify_certificate_hash: tuple[str, ...] = ()
    min_protocol_version: TLSVersion = TLSVersion.AUTO
    max_protocol_version: TLSVersion = TLSVersion.AUTO
    cipher_suites: tuple[str, ...] = ()


class ServerPort(Strict, frozen=True):
    number: int
    protocol: str
    name: str = ""
    target_port: int = 0


class Server(Strict, frozen=True):
    """One port and the hosts served there, perhaps with the namespace whose rules may claim them: `namespace/host`, `./host`, `*/host`."""

    port: ServerPort
    hosts: tuple[str, ...]
    bind: str = ""
    tls: ServerTLS | None = None
    default_endpoint: str = ""
    name: str = ""


class IstioGatewaySpec(Strict, frozen=True):
    servers: tuple[Server, ...] = ()
    selector: dict[str, str] = field(default_factory=dict)


class IstioGateway(Object, frozen=True, rename="camel", kw_only=True):
    kind_of: ClassVar[Kind] = Kind.ISTIO_GATEWAY
    spec: IstioGatewaySpec
