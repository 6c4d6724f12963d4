"""Whether a request comes from a stranger's page that a browser on this machine shows.

While the service is open, nothing but its address protects it, and every page that is open in a browser here
reaches that address. Two things keep such a page out:

- A name of its own that it lets lead to 127.0.0.1 (DNS rebinding) would make it a page of this service, so
  that it could read all jobs and pictures. Its requests name that name in ``Host``.
- A form or script of its own may post without being able to read the answer (CSRF, CWE-352). Browsers say
  where a request comes from, in ``Sec-Fetch-Site`` or, older ones, in ``Origin``:
  https://developer.mozilla.org/docs/Web/HTTP/Reference/Headers/Sec-Fetch-Site

With a key all of this is moot: no browser adds one by itself.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from core.errors import PawlensError

_READING = frozenset({"GET", "HEAD", "OPTIONS"})


class ForeignPage(PawlensError):
    status, code, title = 403, "foreign_page", "Forbidden"


def check(method: str, headers: Headers, trusted: Collection[str]) -> None:
    """``trusted`` are the origins whose pages may call this service (``PAWLENS_CORS_ORIGINS``).

    Raises:
        ForeignPage: the request came under a foreign name, or from a foreign page and not only to read.
    """
    host = headers.get("host", "")
    if host and not _is_local(host):
        raise ForeignPage(
            "This service is open to its own machine alone, and answers to localhost and 127.0.0.1. Use one "
            "of these, make a key with `pawlens keys create NAME`, or start it with --no-auth."
        )
    origin = headers.get("origin")
    if method in _READING or origin in trusted:
        return
    site = headers.get("sec-fetch-site")
    is_own = site in ("same-origin", "none") if site else origin is None or urlsplit(origin).netloc == host
    if not is_own:
        raise ForeignPage(
            "This came from a page of another site. Name its origin in PAWLENS_CORS_ORIGINS, or make a key "
            "with `pawlens keys create NAME`."
        )


@lru_cache(maxsize=64)
def _is_local(host: str) -> bool:
    """Whether this is a name of this machine, or an address: nobody can let an address lead elsewhere."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
