"""What is installed: the Kustomize base that came with this version, with what the operator chose. No I/O but reading those files."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

Document = dict[str, Any]

_PACKED: Final = Path(__file__).parent / "base"
_IN_THE_TREE: Final = Path(__file__).parents[2] / "deploy/daemonset/base"
BASE: Final = _PACKED if _PACKED.is_dir() else _IN_THE_TREE
NAMESPACE: Final = "nodemesh-system"
DEFINITION: Final = "CustomResourceDefinition"
IMAGE_OPTION: Final = "--gateway-image"
"""Names an image, of what the controller makes itself."""

_FIRST: Final = ("Namespace", DEFINITION, "ServiceAccount", "ClusterRole", "Role")
"""What others refer to is there before them."""
_PLURALS: Final = {"ValidatingAdmissionPolicy": "validatingadmissionpolicies"}
_CLUSTER_WIDE: Final = frozenset(
    {"Namespace", DEFINITION, "ClusterRole", "ClusterRoleBinding", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
)


@dataclass(frozen=True, slots=True)
class Choices:
    """What differs between clusters; empty: as the base has it. Whoever needs more uses the chart."""

    registry: str = ""
    tag: str = ""
    options: tuple[tuple[str, str], ...] = ()
    """Options of the programs, set wherever a program has them: `("--trust-domain", "mesh.example")`."""


def documents(choices: Choices, base: Path = BASE) -> list[Document]:
    """In the order in which they are applied."""
    found = [
        _chosen(document, choices)
        for path in sorted(base.glob("*.yaml"))
        if path.name != "kustomization.yaml"
        for document in yaml.safe_load_all(path.read_text())
        if document
    ]
    return sorted(found, key=lambda document: _FIRST.index(document["kind"]) if document["kind"] in _FIRST else len(_FIRST))


def path_of(document: Document) -> str:
    """Where the API server has it."""
    version, kind, meta = document["apiVersion"], document["kind"], document["metadata"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    scope = "" if kind in _CLUSTER_WIDE else f"/namespaces/{meta['namespace']}"
    return f"{root}{scope}/{_PLURALS.get(kind, kind.lower() + 's')}/{meta['name']}"


def words(document: Document) -> str:
    """For a line of progress."""
    meta = document["metadata"]
    return f"{document['kind']} {meta.get('namespace', '')}{'/' if 'namespace' in meta else ''}{meta['name']}"


def _chosen(document: Document, choices: Choices) -> Document:
    for container in _containers(document):
        container["image"] = _image(container["image"], choices)
        container["args"] = [_with(argument, choices) for argument in container["args"]]
    return document


def _image(image: str, choices: Choices) -> str:
    name, _, tag = image.rpartition("/")[2].partition(":")
    registry = choices.registry.rstrip("/") + "/" if choices.registry else ""
    return f"{registry}{name}:{choices.tag or tag}"


def _containers(document: Document) -> Iterator[Document]:
    if document["kind"] in {"Deployment", "DaemonSet"}:
        yield from document["spec"]["template"]["spec"]["containers"]


def _with(argument: str, choices: Choices) -> str:
    name, equals, stated = argument.partition("=")
    value = dict(choices.options).get(name) if equals else None
    if value is None and name == IMAGE_OPTION:
        value = _image(stated, choices)
    return argument if value is None else f"{name}={value}"
