"""Manifests of a test as what reading them says: documents, and their errors and warnings."""

import textwrap

from control.validation.document import Document, read_documents
from control.validation.finding import Severity

ROOT = "istio-system"


def read(text: str) -> list[Document]:
    return read_documents(textwrap.dedent(text).lstrip("\n"), "f.yaml", ROOT)


def errors(text: str) -> list[tuple[int, str]]:
    found = [finding for document in read(text) for finding in document.findings if finding.severity is Severity.ERROR]
    return [(finding.origin.line, finding.what) for finding in found]


def warnings(text: str) -> list[str]:
    return [one.what for document in read(text) for one in document.findings if one.severity is Severity.WARNING]
