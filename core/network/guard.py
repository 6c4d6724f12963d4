"""An HTTP client that cannot be led to a private address (server-side request forgery, CWE-918).

Checking a URL before it is requested is not enough: its name can answer with a public address when it is
checked and with a private one when it is used (DNS rebinding). So the check stands where the socket is
opened. A name is resolved once, every answer must be public, and the connection is made to the very address
that was checked; Host header, SNI and certificate check keep the name. Redirects come back to the caller,
so that each hop passes through here again.

The same place keeps the time. httpx's timeouts run anew with every read, so that a server that sends one
byte a second never meets them; here all reads and writes share one deadline.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import httpcore
import httpx

from core.errors import UrlBlocked
from core.network.addresses import is_public
from core.network.urls import check_url

# The addresses of a host name, in the order in which to try them. Raises socket.gaierror.
Resolve = Callable[[str], Sequence[str]]


class HostNotFound(httpx.ConnectError):
    """DNS knows no address for the host's name; unlike other connection errors, this will not pass."""


def system_resolver(host: str) -> list[str]:
    """The addresses that the operating system has for ``host``, best first (RFC 6724)."""
    answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(socket_address[0]) for *_, socket_address in answers]


class GuardedTransport(httpx.BaseTransport):
    """httpx's door to the guarded connections, for one download or one delivery.

    All it does must end within ``timeout`` seconds of now. A request raises UrlBlocked when its URL or any
    address of its host is not allowed, HostNotFound when the host has no address, and otherwise what httpx
    raises. It follows no redirects, keeps no cookies, and reads no proxy, netrc or certificate settings from
    the environment. ``allow_private`` opens private addresses, local names and all ports: for development and
    tests. ``tls`` replaces the default trust in certifi's authorities.

    Written on httpcore's public interface, because httpx.HTTPTransport takes no network backend.
    """

    def __init__(
        self, *, timeout: float, allow_private: bool, resolve: Resolve, tls: ssl.SSLContext | None = None
    ) -> None:
        self._allow_private = allow_private
        self._pool = httpcore.ConnectionPool(
            ssl_context=tls or _default_tls(),
            network_backend=_GuardedBackend(_Deadline(timeout), allow_private, resolve),
            max_keepalive_connections=0,  # every request is resolved and checked anew
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = check_url(str(request.url), allow_private=self._allow_private)
        with _as_httpx_errors():
            response = self._pool.handle_request(
                httpcore.Request(
                    method=request.method,
                    url=httpcore.URL(
                        scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
                    ),
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=_Body(response),
            extensions=response.extensions,
        )

    def close(self) -> None:
        self._pool.close()


class _GuardedBackend(httpcore.NetworkBackend):
    """Opens TCP connections to checked addresses only. Unix sockets stay unimplemented, as in the base."""

    def __init__(self, deadline: _Deadline, allow_private: bool, resolve: Resolve) -> None:
        self._deadline = deadline
        self._allow_private = allow_private
        self._resolve = resolve
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = self._checked_addresses(host)
        failure: Exception | None = None
        for tried, address in enumerate(addresses):
            # An address that swallows packets gets its share of the time, not all of it.
            share = self._deadline.left(timeout) / (len(addresses) - tried)
            try:
                stream = self._sockets.connect_tcp(address, port, share, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return _DeadlineStream(stream, self._deadline)
        raise failure or HostNotFound("The host's name has no address.")

    def _checked_addresses(self, host: str) -> list[str]:
        try:
            answers = _call_within(self._deadline.left(), self._resolve, host)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout("DNS did not answer in time.") from error
        except UnicodeError as error:  # a label that cannot be encoded
            raise HostNotFound("The host's name is not a valid DNS name.") from error
        except socket.gaierror as error:
            if error.errno in (socket.EAI_NONAME, socket.EAI_NODATA):
                raise HostNotFound("The host's name has no address.") from error
            raise httpcore.ConnectError("DNS could not answer.") from error
        # One bad answer spoils the name: with a mixture, the order of answers would decide where it leads.
        if not self._allow_private and not all(is_public(answer) for answer in answers):
            raise UrlBlocked(
                "The URL's host has an address that is not on the public internet; use a public host."
            )
        return list(dict.fromkeys(answers))


class _DeadlineStream(httpcore.NetworkStream):
    """A connection on which no operation outlives the deadline."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: _Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        try:
            left = self._deadline.left(timeout)
            return _DeadlineStream(self._stream.start_tls(ssl_context, server_hostname, left), self._deadline)
        except BaseException:
            self.close()  # httpcore does not know the connection yet and would leave it open
            raise

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Deadline:
    """The moment, ``timeout`` seconds after now, at which everything must be over."""

    def __init__(self, timeout: float) -> None:
        self._at = time.monotonic() + timeout

    def left(self, at_most: float | None = None) -> float:
        """Seconds left, more than 0. Raises httpcore.ReadTimeout when there are none."""
        left = self._at - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("The time for the whole exchange is over.")
        return left if at_most is None else min(left, at_most)


class _Body(httpx.SyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        with _as_httpx_errors():
            yield from self._response.iter_stream()

    def close(self) -> None:
        self._response.close()


@functools.cache  # reading certifi's bundle takes longer than many a request
def _default_tls() -> ssl.SSLContext:
    return httpx.create_ssl_context(trust_env=False)


@contextlib.contextmanager
def _as_httpx_errors() -> Iterator[None]:
    """httpcore's errors under their names in httpx, as every user of an httpx client expects them."""
    try:
        yield
    except (
        httpcore.TimeoutException,
        httpcore.NetworkError,
        httpcore.ProtocolError,
        httpcore.UnsupportedProtocol,
    ) as error:
        same_name: type[httpx.TransportError] = getattr(httpx, type(error).__name__, httpx.TransportError)
        raise same_name(str(error)) from error


def _call_within(seconds: float, resolve: Resolve, host: str) -> Sequence[str]:
    """``resolve(host)``, or TimeoutError. getaddrinfo knows no timeout and cannot be stopped, so it is
    left behind in its thread until the system's resolver gives up.
    """
    answer: Future[Sequence[str]] = Future()

    def look_up() -> None:
        try:
            answer.set_result(resolve(host))
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=look_up, name="dns", daemon=True).start()
    return answer.result(timeout=seconds)
