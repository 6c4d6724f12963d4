from __future__ import annotations

import pytest

from core.errors import UrlBlocked
from core.network import check_url


@pytest.mark.parametrize(
    ("url", "canonical"),
    [
        ("https://example.com/cat.jpg", "https://example.com/cat.jpg"),
        ("HTTP://Example.COM/Cat.jpg?Size=2", "http://example.com/Cat.jpg?Size=2"),
        ("http://example.com:80/", "http://example.com/"),
        ("http://example.com:8080/", "http://example.com:8080/"),
        ("https://example.com:8443", "https://example.com:8443"),
        ("https://93.184.215.14/cat.jpg", "https://93.184.215.14/cat.jpg"),
        ("https://[2606:4700:4700::1111]:443/", "https://[2606:4700:4700::1111]/"),
        ("https://bücher.example/käfer.jpg", "https://xn--bcher-kva.example/k%C3%A4fer.jpg"),
        ("https://a_b.example.com/", "https://a_b.example.com/"),
        ("https://1password.com/", "https://1password.com/"),
        ("https://10.example.com/", "https://10.example.com/"),
        ("https://notlocalhost.com/", "https://notlocalhost.com/"),
    ],
)
def test_allowed(url: str, canonical: str) -> None:
    checked = check_url(url)
    assert str(checked) == canonical
    assert check_url(canonical) == checked


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "127.0.1",
        "2130706433",
        "017700000001",
        "0x7f000001",
        "0X7F000001",
        "0x7f.0.0.1",
        "127.0.0.0x1",
        "0177.0.0.1",
        "0000177.0.0.1",
        "127.0.0.01",
        "127.0.0.1.",
        "127.0.0.256",
        "0",
        "0x",
        "0.0.0.0",
        "100.64.0.1",
        "169.254.169.254",
        "192.0.0.192",
        "10.0.0.1",
        "１２７.０.０.１",  # noqa: RUF001
        "127。0。0。1",
        "①②⑦.⓪.⓪.①",
        "[::]",
        "[::1]",
        "[::127.0.0.1]",
        "[::ffff:169.254.169.254]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b:1::a9fe:a9fe]",
        "[2002:7f00:1::]",
        "[2001:0:4136:e378:8000:63bf:80ff:fffe]",
        "[fd00:ec2::254]",
        "[fe80::1%25eth0]",
        "[2606:4700:4700::1111%25eth0]",
        "[v1.fe80::a]",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "ｌｏｃａｌｈｏｓｔ",  # noqa: RUF001
        "app.localhost",
        "printer.local",
        "metadata.google.internal",
        "metadata.google.internal.",
        "nas.home.arpa",
        "redis",
        "example..com",
        ".example.com",
        "example.com.",
        "-example-.com",
        "127.0.0.%31",
        "exam%70le.com",
        "xn--a",
        "xn--zzzzzz99999.com",
        "a" * 64 + ".com",
        ".".join(["a" * 50] * 6),
        "",
    ],
)
def test_hosts_that_are_refused(host: str) -> None:
    with pytest.raises(UrlBlocked):
        check_url(f"http://{host}/cat.jpg")
    with pytest.raises(UrlBlocked):
        check_url(f"https://{host}:443/cat.jpg")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "http:// or https://"),
        ("cat.jpg", "http:// or https://"),
        ("//example.com/cat.jpg", "http:// or https://"),
        ("file:///etc/passwd", "http:// or https://"),
        ("gopher://example.com/_", "http:// or https://"),
        ("ftp://example.com/cat.jpg", "http:// or https://"),
        ("javascript:alert(1)", "http:// or https://"),
        ("data:image/png;base64,AAAA", "http:// or https://"),
        ("http:/example.com", "no host"),
        ("http:example.com", "no host"),
        ("http:///etc/passwd", "no host"),
        ("http://user@example.com/", "user name"),
        ("http://user:secret@example.com/", "user name"),
        ("http://:secret@example.com/", "user name"),
        ("http://example.com:22/", "Port 22"),
        ("http://example.com:6379/", "Port 6379"),
        ("http://example.com:0/", "between 1 and 65535"),
        ("http://example.com:-80/", "between 1 and 65535"),
        ("http://example.com:65536/", "between 1 and 65535"),
        ("http://example.com:http/", "not valid"),
        ("http://example.com:80:80/", "not valid"),
        ("http://example.com\\@127.0.0.1/", "backslash"),
        ("http://example.com/a cat.jpg", "space"),
        (" http://example.com/", "space"),
        ("http://example.com/\r\nHost: internal", "control character"),
        ("http://example.com/\x00", "control character"),
        ("http://example.com/\x7f", "control character"),
        ("http://example.com/\u2028", "control character"),
        ("http://example.com/\u00a0", "space"),
        ("http://example.com/\ud800", "control character"),
        ("http://example.com/" + "a" * 2048, "2048 characters"),
        ("http://example.com/" + "ä" * 400, "2048 characters"),
        ("http://example.com/" + "a" * 70_000, "not valid"),
    ],
)
def test_forms_that_are_refused_also_in_development(url: str, says: str) -> None:
    for allow_private in (False, True):
        if says.startswith("Port") and allow_private:
            continue
        with pytest.raises(UrlBlocked, match=says):
            check_url(url, allow_private=allow_private)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost", "redis", "10.0.0.1"])
def test_development_may_use_private_hosts_and_any_port(host: str) -> None:
    assert check_url(f"http://{host}:54321/", allow_private=True).port == 54321


def test_development_does_not_lift_the_standard_form_of_addresses() -> None:
    with pytest.raises(UrlBlocked, match="four decimal numbers"):
        check_url("http://127.1/", allow_private=True)
