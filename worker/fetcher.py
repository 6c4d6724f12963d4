"""Download the picture that a job names by its URL."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version

import httpx

from core.errors import FetchFailed, FetchUnavailable, UrlBlocked
from core.network import GuardedTransport, HostNotFound, Resolve, check_url, system_resolver

_HEADERS = {
    "User-Agent": f"Pawlens/{version('pawlens')}",
    "Accept": "image/*",
    "Accept-Encoding": "identity",  # pictures are compressed already, and nothing here must be inflated
}

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# Request Timeout, Too Early and Too Many Requests (RFC 9110, 8470, 6585): the server asks for patience.
_PASSING_CLIENT_ERRORS = frozenset({408, 425, 429})


@dataclass(frozen=True)
class Downloaded:
    """``url`` is where the bytes came from, after ``redirects`` hops. ``media_type`` is what the server
    claims (lower case, without parameters): good for a log, while the decoder finds out what it is.
    """

    data: bytes
    url: str
    media_type: str | None
    redirects: int


def fetch(
    url: str,
    *,
    max_bytes: int,
    timeout_seconds: float,
    max_redirects: int = 3,
    allow_private: bool = False,
    resolve: Resolve = system_resolver,
) -> Downloaded:
    """Download ``url``, with all redirects within ``timeout_seconds`` and ``max_bytes``.

    Each hop passes the same checks as the first. A redirect from https to http is refused: whoever gave an
    https address was promised that nobody on the way can change the picture.

    Raises:
        UrlBlocked: The URL, a redirect's target, or an address behind either is not allowed.
        FetchUnavailable: Timeout, broken connection, 408, 425, 429 or 5xx: worth another attempt.
        FetchFailed: Everything that another attempt would not change.
    """
    target = check_url(url, allow_private=allow_private)
    # No httpx.Client around the transport: it would parse Location, keep cookies and log whole URLs.
    with (
        _as_fetch_errors(timeout_seconds),
        GuardedTransport(timeout=timeout_seconds, allow_private=allow_private, resolve=resolve) as transport,
    ):
        for redirects in range(max_redirects + 1):
            request = httpx.Request("GET", target, headers=_HEADERS)
            with contextlib.closing(transport.handle_request(request)) as response:
                if response.status_code not in _REDIRECTS:
                    _check_status(response.status_code)
                    data = _read(response, max_bytes)
                    return Downloaded(data, str(target), _media_type(response), redirects)
                target = _redirect_target(target, response, allow_private=allow_private)
    raise FetchFailed(f"The URL redirects more than {max_redirects} times; use the picture's final URL.")


def _redirect_target(current: httpx.URL, response: httpx.Response, *, allow_private: bool) -> httpx.URL:
    location = response.headers.get("Location")
    if not location:
        raise FetchFailed("The server answered with a redirect that leads nowhere (no Location).")
    try:
        target = check_url(str(current.join(location)), allow_private=allow_private)
    except (httpx.InvalidURL, ValueError) as error:
        raise UrlBlocked("The URL redirects to something that is not a valid URL.") from error
    except UrlBlocked as error:
        raise UrlBlocked(f"The URL redirects to one that is not allowed. {error.detail}") from error
    if current.scheme == "https" and target.scheme == "http":
        raise UrlBlocked("The URL redirects from https to http, which is not followed; use the final URL.")
    return target


def _check_status(status: int) -> None:
    if status == 200:
        return
    if status >= 500 or status in _PASSING_CLIENT_ERRORS:
        raise FetchUnavailable(f"The server could not send the picture now (status {status}).")
    raise FetchFailed(f"The server did not send the picture: it answered with status {status}, not 200.")


def _read(response: httpx.Response, max_bytes: int) -> bytes:
    """The body as it was sent. A declared length is only a reason to stop early; what counts is counted."""
    too_large = FetchFailed(f"The picture at the URL is larger than {max_bytes} bytes; use a smaller one.")
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise FetchFailed("The server sent a compressed body although it was asked not to.")
    declared = response.headers.get("Content-Length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise too_large
    data = bytearray()
    for chunk in response.iter_raw():
        data += chunk
        if len(data) > max_bytes:
            raise too_large
    if not data:
        raise FetchFailed("The server sent an empty body in place of a picture.")
    return bytes(data)


def _media_type(response: httpx.Response) -> str | None:
    return response.headers.get("Content-Type", "").partition(";")[0].strip().lower() or None


@contextlib.contextmanager
def _as_fetch_errors(timeout_seconds: float) -> Iterator[None]:
    """Turn what the network raises into what a job can carry.

    The details are ours: the originals may name an internal address or quote what the server sent.
    """
    try:
        yield
    except HostNotFound as error:
        raise FetchFailed("The URL's host does not exist in DNS; check its spelling.") from error
    except httpx.TimeoutException as error:
        raise FetchUnavailable(f"The download did not finish within {timeout_seconds:g} seconds.") from error
    except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
        if _is_certificate_error(error):
            raise FetchFailed("The server's TLS certificate could not be verified.") from error
        raise FetchUnavailable("The connection failed or broke before the picture was complete.") from error


def _is_certificate_error(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__context__  # not __cause__, which httpcore's pool clears
    return False
