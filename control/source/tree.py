"""The pure core of the directory source: the texts of files in, changes of objects out.

What a file seems to no longer define is only removed if all of the file could be read; a policy must not vanish through a typing error.
"""

from collections.abc import Iterable, Mapping

from msgspec import Struct

from control.kinds import ObjectKey
from control.source import Change, FileFindings, Reject, Remove, Upsert
from control.validation.document import Document, read_documents
from control.validation.finding import Finding, Origin, Severity


class Unreadable(Struct, frozen=True):
    """A file that is there and can't be read, and why."""

    reason: str


class Absent(Struct, frozen=True):
    """A file that is gone."""


FileState = str | Unreadable | Absent


class FileTree:
    """Keeps what each file defines; an update costs as much as the files that changed."""

    def __init__(self, root_namespace: str) -> None:
        self._root_namespace = root_namespace
        self._files: dict[str, tuple[Document, ...]] = {}
        self._places: dict[ObjectKey, dict[str, list[Document]]] = {}
        self._delivered: dict[ObjectKey, Change] = {}
        self._reported: dict[str, tuple[Finding, ...]] = {}

    def update(self, files: Mapping[str, FileState]) -> list[Change]:
        """Takes files that are new, changed or gone; returns what that changes, sorted by object."""
        touched: set[ObjectKey] = set()
        for file in sorted(files):
            touched |= self._replace(file, self._documents(file, files[file]))
        changes = [change for key in sorted(touched) if (change := self._deliver(key)) is not None]
        return changes + [change for file in sorted(files) if (change := self._report(file)) is not None]

    def _documents(self, file: str, state: FileState) -> tuple[Document, ...]:
        match state:
            case Absent():
                return ()
            case Unreadable(reason):
                finding = Finding(Origin(file), Severity.ERROR, f"can't be read: {reason}", "what it said before stays in use")
                documents = [Document(Origin(file), findings=(finding,), unreadable=True)]
            case str() as text:
                documents = read_documents(text, file, self._root_namespace)
        if any(document.unreadable for document in documents):
            documents += self._retained(file, {document.key for document in documents})
        return tuple(documents)

    def _retained(self, file: str, present: set[ObjectKey | None]) -> Iterable[Document]:
        for key in {document.key for document in self._files.get(file, ()) if document.key is not None} - present:
            before = self._places[key][file][0]
            what = "was defined here, and the file can't be read any more"
            finding = Finding(before.origin, Severity.ERROR, what, "correct the file; until then the object stays as it was", str(key))
            yield Document(before.origin, key, None, before.manifest, (finding,), before.closed)

    def _replace(self, file: str, documents: tuple[Document, ...]) -> set[ObjectKey]:
        touched: set[ObjectKey] = set()
        for document in self._files.pop(file, ()):
            if document.key is not None:
                touched.add(document.key)
                self._places[document.key].pop(file, None)
        for document in documents:
            if document.key is not None:
                touched.add(document.key)
                self._places.setdefault(document.key, {}).setdefault(file, []).append(document)
        if documents:
            self._files[file] = documents
        return touched

    def _deliver(self, key: ObjectKey) -> Change | None:
        places = self._places[key]
        rivals = sorted((document for documents in places.values() for document in documents), key=lambda document: document.origin)
        if not rivals:
            del self._places[key]
            return Remove(key) if self._delivered.pop(key, None) is not None else None
        change = _verdict(key, rivals)
        if self._delivered.get(key) == change:
            return None
        self._delivered[key] = change
        return change

    def _report(self, file: str) -> Change | None:
        findings = tuple(finding for document in self._files.get(file, ()) if document.key is None for finding in document.findings)
        if self._reported.get(file, ()) == findings:
            return None
        self._reported[file] = findings
        if not findings:
            del self._reported[file]
        return FileFindings(file, findings)


def _verdict(key: ObjectKey, rivals: list[Document]) -> Change:
    """The first place wins, so that the same files always mean the same; every further one is an error that names both."""
    first = rivals[0]
    twice = tuple(
        Finding(
            rival.origin, Severity.ERROR, f"stands here and in {first.origin}, which is the one in use", "remove one of the two", str(key)
        )
        for rival in rivals[1:]
    )
    if first.object is not None:
        return Upsert(first.object, first.origin, first.manifest, first.findings + twice)
    return Reject(key, first.origin, first.findings + twice, first.manifest, first.closed)
