"""Where units are found: in slices, and nowhere else."""

from pathlib import Path

from nodeagent.vm.units import find


def tree(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).mkdir(parents=True)
    return root


def test_in_the_system_s_slice_or_another(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        "system.slice/web.service",
        "shop.slice/shop-db.slice/db.service",
        "user.slice/user-0.slice/user@0.service/app.slice/x.service",
    )
    assert find("web.service", root) == "system.slice/web.service"
    assert find("db.service", root) == "shop.slice/shop-db.slice/db.service"
    assert find("gone.service", root) == ""


def test_what_a_service_makes_below_itself_is_no_unit(tmp_path: Path) -> None:
    root = tree(tmp_path, "system.slice/evil.service/web.service", "system.slice/evil.service/a.slice/web.service")
    assert find("web.service", root) == ""


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    root = tree(tmp_path, "a/b")
    assert find("a/b", root) == "a/b"
    assert find("a/c", root) == ""


def test_where_it_was_is_looked_at_first(tmp_path: Path) -> None:
    root = tree(tmp_path, "b.slice/web.service", "a.slice/web.service")
    assert find("web.service", root) == "a.slice/web.service"
    assert find("web.service", root, "b.slice/web.service") == "b.slice/web.service"
