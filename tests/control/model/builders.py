"""Objects of the mesh for tests, written as YAML the way users write them, read the way the controller reads them."""

import textwrap

from control.kinds import MeshObject
from control.model.mesh import Mesh
from control.model.settings import MeshSettings
from control.source.tree import FileTree
from control.validation.document import read_documents
from meshapi import wire
from meshapi.authorization import Policy, decode_policy
from meshapi.workload import Service, Workload, decode_address

ROOT = "istio-system"


def parse(text: str) -> list[MeshObject]:
    """The objects of manifests, which must be free of errors."""
    documents = read_documents(textwrap.dedent(text), "test.yaml", ROOT)
    for document in documents:
        assert document.object is not None, [str(finding) for finding in document.findings]
    return [document.object for document in documents if document.object is not None]


def one(text: str) -> MeshObject:
    """The only object of a manifest."""
    (item,) = parse(text)
    return item


class Config:
    """A mesh fed with files, as the directory source feeds it."""

    def __init__(self, text: str = "", settings: MeshSettings | None = None) -> None:
        self.mesh = Mesh(settings or MeshSettings())
        self._tree = FileTree(self.mesh.settings.root_namespace)
        if text:
            self.write("a.yaml", text)

    def write(self, file: str, text: str) -> None:
        self.mesh.apply(self._tree.update({file: textwrap.dedent(text)}))

    def workload(self, uid: str) -> Workload:
        resource = self.mesh.get(wire.ADDRESS_TYPE, uid)
        assert resource is not None, f"{uid} is not among {sorted(self.mesh.names(wire.ADDRESS_TYPE))}"
        decoded = decode_address(resource.body)
        assert isinstance(decoded, Workload)
        return decoded

    def pod(self, namespace: str, name: str) -> Workload:
        return self.workload(f"Kubernetes//Pod/{namespace}/{name}")

    def service(self, key: str) -> Service:
        resource = self.mesh.get(wire.ADDRESS_TYPE, key)
        assert resource is not None, f"{key} is not among {sorted(self.mesh.names(wire.ADDRESS_TYPE))}"
        decoded = decode_address(resource.body)
        assert isinstance(decoded, Service)
        return decoded

    def policy(self, key: str) -> Policy:
        resource = self.mesh.get(wire.AUTHORIZATION_TYPE, key)
        assert resource is not None, f"{key} is not among {sorted(self.mesh.names(wire.AUTHORIZATION_TYPE))}"
        return decode_policy(resource.body)

    @property
    def addresses(self) -> set[str]:
        return set(self.mesh.names(wire.ADDRESS_TYPE))

    @property
    def policies(self) -> set[str]:
        return set(self.mesh.names(wire.AUTHORIZATION_TYPE))
