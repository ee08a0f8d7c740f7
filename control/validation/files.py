"""Validates files as the controller would read them: the same decoding, checks and model, every finding listed."""

from collections.abc import Iterable
from pathlib import Path

from control.model.mesh import Mesh
from control.model.settings import MeshSettings
from control.model.status import findings_in_mesh
from control.source import Change, FileFindings, Reject, Upsert
from control.source.directory import DirectoryScanner, read_file
from control.source.tree import FileState, FileTree
from control.validation.finding import Finding


def validate(paths: Iterable[Path], settings: MeshSettings) -> list[Finding]:
    """All findings of files and directories taken together, in order of their places."""
    files: dict[str, FileState] = {}
    for path in paths:
        files |= DirectoryScanner(path).scan() if path.is_dir() else {str(path): read_file(str(path))}
    changes = FileTree(settings.root_namespace).update(files)
    mesh = Mesh(settings)
    mesh.apply(changes)
    found = {finding for change in changes for finding in _findings(change)}
    found |= {finding for key in mesh.records for finding in findings_in_mesh(mesh, key)}
    return sorted(found)


def _findings(change: Change) -> tuple[Finding, ...]:
    return change.findings if isinstance(change, Upsert | Reject | FileFindings) else ()
