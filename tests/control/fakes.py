"""An in-memory model and certificates, for the tests of what stands on them."""

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from control.resources import Changes, PlacedNode, PlacedPod, Resource, TypeURL
from meshapi import wire
from meshapi.spiffe import WorkloadIdentity
from meshapi.workload import Service, Workload, encode_service, encode_workload

ADDRESS = TypeURL(wire.ADDRESS_TYPE)
AUTHORIZATION = TypeURL(wire.AUTHORIZATION_TYPE)
NOW_S = 1_800_000_000.0


@dataclass
class FakeClock:
    now_s: float = NOW_S

    def __call__(self) -> float:
        return self.now_s


def version_of(body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=8).hexdigest()


@dataclass
class FakeModel:
    """ResourceView and Placement by brute force: look-ups scan everything, so they can't be stale."""

    nodes: set[str] = field(default_factory=lambda: {"n1", "n2"})
    gateways: set[tuple[str, str]] = field(default_factory=set)
    running: set[tuple[WorkloadIdentity, str]] = field(default_factory=set)
    pods: dict[tuple[str, str], PlacedPod] = field(default_factory=dict)
    workloads: dict[str, Workload] = field(default_factory=dict)
    services: dict[str, Service] = field(default_factory=dict)
    policies: dict[str, bytes] = field(default_factory=dict)
    watchers: list[Callable[[Changes], None]] = field(default_factory=list)

    def has_node(self, node: str) -> bool:
        return node in self.nodes

    def runs_on(self, identity: WorkloadIdentity, node: str) -> bool:
        return (identity, node) in self.running

    def pod(self, namespace: str, name: str) -> PlacedPod | None:
        return self.pods.get((namespace, name))

    def has_gateway(self, namespace: str, name: str) -> bool:
        return (namespace, name) in self.gateways

    def node(self, name: str) -> PlacedNode | None:
        return PlacedNode("", ("127.0.0.1",)) if name in self.nodes else None

    def names(self, type_url: TypeURL) -> Collection[str]:
        return [*self.workloads, *self.services] if type_url == ADDRESS else list(self.policies)

    def get(self, type_url: TypeURL, name: str) -> Resource | None:
        if type_url == AUTHORIZATION:
            body = self.policies.get(name)
        elif name in self.workloads:
            body = encode_workload(self.workloads[name])
        elif name in self.services:
            body = encode_service(self.services[name])
        else:
            body = None
        return None if body is None else Resource(name, version_of(body), body)

    def resolve(self, type_url: TypeURL, key: str) -> Collection[str]:
        if type_url == AUTHORIZATION:
            return [key] if key in self.policies else []
        found = [uid for uid, one in self.workloads.items() if key == uid or key in {f"{one.network}/{ip}" for ip in one.addresses}]
        found += [name for name, one in self.services.items() if key == name or key in {address.key for address in one.addresses}]
        return found

    def members(self, type_url: TypeURL, name: str) -> Collection[str]:
        if type_url == AUTHORIZATION or name not in self.services:
            return []
        return [uid for uid, one in self.workloads.items() if name in one.services]

    def watch(self, on_change: Callable[[Changes], None]) -> Callable[[], None]:
        self.watchers.append(on_change)
        return lambda: self.watchers.remove(on_change)

    def changed(self, type_url: TypeURL, *names: str) -> None:
        for watcher in tuple(self.watchers):
            watcher({type_url: names})

    def put(self, one: Workload | Service) -> None:
        if isinstance(one, Workload):
            self.workloads[one.uid] = one
            self.changed(ADDRESS, one.uid)
        else:
            self.services[one.key] = one
            self.changed(ADDRESS, one.key)

    def remove(self, name: str) -> None:
        self.workloads.pop(name, None)
        self.services.pop(name, None)
        self.changed(ADDRESS, name)

    def put_policy(self, name: str, body: bytes) -> None:
        self.policies[name] = body
        self.changed(AUTHORIZATION, name)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def csr_pem(identity: str, key: ec.EllipticCurvePrivateKey, *extensions: tuple[x509.ExtensionType, bool]) -> str:
    """What Istio's agents send: an empty subject and one URI, unless `extensions` are given instead."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    for extension, critical in extensions or ((x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)]), True),):
        builder = builder.add_extension(extension, critical)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
