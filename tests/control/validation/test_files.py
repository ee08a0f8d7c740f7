"""Files and directories are validated together, as the controller would read them."""

from pathlib import Path

from control.model.settings import MeshSettings
from control.validation.files import validate
from control.validation.finding import Severity

ENTRY = """
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: NAME, namespace: shop}
spec: {address: 192.0.2.1}
"""
POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: shop}
spec: {rules: [{to: [{operation: {methods: [GET]}}]}]}
"""


def test_good_files_have_no_findings(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(ENTRY.replace("NAME", "a"))
    assert validate([tmp_path], MeshSettings()) == []


def test_what_shows_only_between_files(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "a.yaml").write_text(ENTRY.replace("NAME", "a"))
    (tmp_path / "b.yml").write_text(ENTRY.replace("NAME", "b"))
    (tmp_path / "again.yaml").write_text("\n" + ENTRY.replace("NAME", "a"))
    (tmp_path / "policy").write_text(POLICY)
    (tmp_path / "broken.yaml").write_text("a: b: c")
    paths = [tmp_path / "dir", tmp_path / "b.yml", tmp_path / "again.yaml", tmp_path / "policy", tmp_path / "broken.yaml"]
    found = [(Path(one.origin.file).name, one.origin.line, one.severity, one.what) for one in validate(paths, MeshSettings())]
    assert found == [
        ("b.yml", 2, Severity.ERROR, "the address 192.0.2.1 belongs to WorkloadEntry shop/a"),
        ("broken.yaml", 1, Severity.ERROR, "not YAML: mapping values are not allowed in this context"),
        ("a.yaml", 2, Severity.ERROR, f"stands here and in {tmp_path}/again.yaml:3, which is the one in use"),
        ("policy", 2, Severity.WARNING, "not enforceable at L4: methods; the rules that use them allow nothing"),
    ]


def test_a_file_that_can_not_be_read_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff")
    (found,) = validate([tmp_path / "a.yaml"], MeshSettings())
    assert found.severity is Severity.ERROR
