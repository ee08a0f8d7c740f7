"""Values that stand in resources: what is accepted, and that nothing ambiguous is."""

from collections.abc import Callable

import pytest

from control.validation import values


@pytest.mark.parametrize(
    ("parse", "good", "bad"),
    [
        (values.label_name, ["a", "a-1", "0a"], ["", "A", "-a", "a-", "a.b", "a/b", "a" * 64, "a\n", "ä"]),
        (values.object_name, ["a.b-c", "a" * 253], ["", "a" * 254, "a/b", "a..b/", "A", "a_b", "a\n", "../x"]),
        (values.label_key, ["app", "a.b/c_d", "istio.io/dataplane-mode"], ["", "/a", "a/", "a/b/c", "a b", "*"]),
        (values.label_value, ["", "a_b.C-1"], ["a b", "*", "-a", "a" * 64, "a/b"]),
        (values.timestamp, ["2030-01-31T12:00:00Z"], ["", "2030-01-31", "2030-01-31T12:00:00+01:00", "2030-01-31T12:00:00.5Z"]),
        (values.boolean, ["true", "False", "1", "f"], ["", "yes", "TRUEe", "on"]),
        (values.port_text, ["1", "65535"], ["0", "65536", "", "-1", "+80", "080", "80 ", "http", "8e1", "٨٠", "1_0"]),
        (
            values.serving_address,
            ["10.0.0.1", "192.168.0.1", "fd00::1", "2001:db8::1", "240.240.0.1", "8.8.8.8"],
            [
                "127.0.0.1",
                "::1",
                "0.0.0.0",
                "::",
                "169.254.169.254",
                "fe80::1",
                "fe80::1%eth0",
                "224.0.0.1",
                "ff02::1",
                "255.255.255.255",
                "100.100.100.200",
                "fd00:ec2::254",
                "::ffff:10.0.0.1",
                "010.0.0.1",
                "10.1",
                "10.0.0.1/32",
                "0x0a000001",
                "",
            ],
        ),
        (values.single_address, ["10.0.0.1", "10.0.0.1/32", "fd00::1/128"], ["10.0.0.0/24", "10.0.0.1/", "10.0.0.1/032", "127.0.0.1/32"]),
        (
            values.block,
            ["10.0.0.1", "10.0.0.1/8", "0.0.0.0/0", "::/0", "fd00::1"],
            ["10.0.0.0/33", "10.0.0.0/255.0.0.0", "10.0.0.0/0.255.255.255", "", "x", "10.0.0.0/-1", "::ffff:1.2.3.4", "fe80::1%lo", "1"],
        ),
        (
            values.host,
            ["a.example", "*.a.example", "a"],
            ["", "*", "a.*.b", "A.example", "a..b", "-a.b", "a_b.c", "localhost", "x.localhost"],
        ),
        (values.locality, ["", "r", "r/z", "r/z/s"], ["r/z/s/x"]),
        (values.segment, ["a", "n1.example_X"], ["", ".", "..", "a/b", "a b", "ä"]),
    ],
)
def test_what_is_accepted(parse: Callable[[str], object], good: list[str], bad: list[str]) -> None:
    for text in good:
        parse(text)
    for text in bad:
        with pytest.raises(ValueError, match=r".+"):
            parse(text)


@pytest.mark.parametrize(("text", "expected"), [("web", ("shop", "web")), ("other/web", ("other", "web"))])
def test_service_accounts(text: str, expected: tuple[str, str]) -> None:
    match = values.service_account(text, "shop")
    assert (match.namespace, match.service_account) == expected


@pytest.mark.parametrize("text", ["", "*", "a/*", "*/a", "a/b/c", "/a", "a/"])
def test_service_accounts_take_no_wildcards(text: str) -> None:
    with pytest.raises(ValueError, match="wildcards"):
        values.service_account(text, "shop")
