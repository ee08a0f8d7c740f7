"""What a unit's instance is told; starting one for real is in tests/deploy/test_package.py."""

import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.linux.errors import KernelError
from nodeagent.ztunnel import proxy_unit


@pytest.mark.parametrize("name", ["nodemesh-proxy@.service", "a.b_c:d@.service"])
def test_templates(name: str) -> None:
    assert proxy_unit.is_template(name)


@pytest.mark.parametrize("name", ["", "nodemesh-proxy.service", "nodemesh-proxy@x.service", "a@.slice", "--now@.service x", "a b@.service"])
def test_what_is_no_template(name: str) -> None:
    assert not proxy_unit.is_template(name)


@given(st.text(st.characters(blacklist_characters="\0\n", blacklist_categories=("Cs",))))
def test_a_value_is_read_as_it_was_written(value: str) -> None:
    """Within double quotes systemd reads as a shell does."""
    assert shlex.split(proxy_unit.quoted(value).replace("\\$", "$").replace("\\`", "`")) == [value]


@pytest.mark.parametrize("value", ["two\nlines", "nul\0"])
def test_a_value_that_can_not_be_written_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="environment file"):
        proxy_unit.quoted(value)


def test_one_that_can_not_be_started_is_said_in_systemds_words_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match=r"(?s)start nodemesh-none@[0-9a-f]+\.service.*journalctl"):
        proxy_unit.start("nodemesh-none@.service", {"A": "b"}, tmp_path)
    assert list(tmp_path.iterdir()) == []
