"""Refuse a URL by its text: the check at the door, before a job or a webhook is accepted.

It asks no DNS, so a name that leads to a private address passes here and is stopped where the connection is
made, in :mod:`core.network.guard`. What is checked is the parsed URL that will be requested, so that
there are no two parsers to disagree about where the host begins.
"""

from __future__ import annotations

import re

import httpx

from core.errors import UrlBlocked
from core.network.addresses import is_public

MAX_URL_LENGTH = 2048
ALLOWED_PORTS = frozenset({80, 443, 8080, 8443})

# Names that mean this machine or this network: RFC 6761, RFC 6762 (mDNS), ICANN's .internal, RFC 8375.
_LOCAL_NAMES = ("localhost", "local", "internal", "home.arpa")

_HOST_NAME = re.compile(r"(?=.{1,253}\Z)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_-]{1,63}")
_DOTTED_QUAD = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3}){3}")
# The C library reads 127.1, 2130706433, 0x7f000001 and 0177.0.0.1 as IPv4 addresses. As in the WHATWG URL
# standard, a host whose last label is a number is an address, never a name.
_NUMERIC_ENDING = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)")


def check_url(url: str, *, allow_private: bool = False) -> httpx.URL:
    """Parse ``url`` and refuse what is never fetched, whatever DNS says.

    Accepted are absolute http and https URLs of at most 2048 characters (percent-encoded), without
    credentials, on port 80, 443, 8080 or 8443, whose host is a full domain name or a public address in its
    standard form. ``allow_private``, for development and tests, lifts the rules on ports, local names
    and addresses; the rules of form stay.

    Raises:
        UrlBlocked: The URL breaks one of these rules; ``detail`` says which, and what would be right.
    """
    if any(char.isspace() or char == "\\" or not char.isprintable() for char in url):
        raise UrlBlocked(
            "The URL holds a space, a backslash or a control character; percent-encode it, as in %20."
        )
    try:
        parsed = httpx.URL(url)
        parsed_length = len(str(parsed))
        _ = parsed.host  # decodes IDNA, as httpx will when it sends: xn-- may stand before nonsense
    except (httpx.InvalidURL, UnicodeError) as error:
        raise UrlBlocked("The URL is not valid; it should read like https://example.com/cat.jpg.") from error
    if parsed_length > MAX_URL_LENGTH:
        raise UrlBlocked(f"The URL is longer than {MAX_URL_LENGTH} characters; use a shorter one.")
    if parsed.scheme not in ("http", "https"):
        raise UrlBlocked("The URL must begin with http:// or https://.")
    if parsed.userinfo:
        raise UrlBlocked("The URL must not hold a user name or password; use a link that needs none.")
    _check_port(parsed.port, allow_private=allow_private)
    _check_host(parsed.raw_host.decode("ascii"), allow_private=allow_private)
    return parsed


def _check_port(port: int | None, *, allow_private: bool) -> None:
    if port is None:
        return  # the scheme's own
    if not 1 <= port <= 65535:
        raise UrlBlocked("The URL's port must lie between 1 and 65535.")
    if port not in ALLOWED_PORTS and not allow_private:
        allowed = ", ".join(str(allowed) for allowed in sorted(ALLOWED_PORTS))
        raise UrlBlocked(f"Port {port} is not allowed; the allowed ports are {allowed}.")


def _check_host(host: str, *, allow_private: bool) -> None:
    """``host`` as it will be resolved: lower case, IDNA-encoded, an IPv6 literal without its brackets."""
    if not host:
        raise UrlBlocked("The URL has no host; it should read like https://example.com/cat.jpg.")
    is_literal = ":" in host or _DOTTED_QUAD.fullmatch(host) is not None
    if is_literal:
        if "%" in host:
            raise UrlBlocked("The URL's address must not have a zone id.")
        if not allow_private and not is_public(host):
            raise UrlBlocked("The URL's address is not on the public internet; use a public host.")
        return
    if _NUMERIC_ENDING.fullmatch(host):
        raise UrlBlocked("An IPv4 address must be written as four decimal numbers, as in 93.184.215.14.")
    if not _HOST_NAME.fullmatch(host):
        raise UrlBlocked("The URL's host is not a valid name; it should read like images.example.com.")
    if not allow_private and ("." not in host or _is_local_name(host)):
        raise UrlBlocked("The URL's host is a local name; use a full public domain name.")


def _is_local_name(host: str) -> bool:
    return any(host == name or host.endswith(f".{name}") for name in _LOCAL_NAMES)
