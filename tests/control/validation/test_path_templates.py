"""control/validation/path_templates.py: what is a template, and which can be matched."""

import pytest

from control.validation.path_templates import check_path, is_template


@pytest.mark.parametrize("text", ["/a", "/a*", "*", "*/b", "/{x}", ""])
def test_other_paths_are_no_templates(text: str) -> None:
    assert not is_template(text)
    assert check_path(text) == text


@pytest.mark.parametrize("text", ["/{*}", "/a/{*}/b", "/{**}", "/a/{**}/b/c", "/{*}/{**}", "/a/{*}/"])
def test_templates(text: str) -> None:
    assert is_template(text)
    assert check_path(text) == text


WRONG = ("{*}", "/a{*}", "/{*}b", "/{**}/{*}", "/{**}/{**}", "/{*}//b", "/a*/{*}", "/a b/{*}", "/\\/{*}", "/a?b/{*}")


@pytest.mark.parametrize("text", WRONG)
def test_templates_that_can_not_be_matched(text: str) -> None:
    with pytest.raises(ValueError, match=r"template|segments|\{\*\*\}"):
        check_path(text)
