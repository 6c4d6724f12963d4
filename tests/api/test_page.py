"""What the page is made of and how it is served; what it does in a browser is in tests/browser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import api
from tests.api.conftest import Api, assert_problem
from tests.api.key_holders import make_key, wait_for_the_guard

FOLDER = Path(api.__file__).parent / "page"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
}
FILES = sorted(
    file.relative_to(FOLDER).as_posix()
    for file in FOLDER.rglob("*")
    if file.is_file() and file.suffix != ".md"
)
SCRIPTS = [name for name in FILES if name.endswith(".js")]
INDEX = (FOLDER / "index.html").read_text()


def test_the_page_is_at_the_root(sqlite_api: Api) -> None:
    answer = sqlite_api.http.get("/")
    assert answer.status_code == 200
    assert answer.text == INDEX
    head = sqlite_api.http.head("/")
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", answer.headers["etag"])


@pytest.mark.parametrize("name", FILES)
def test_each_file_is_served_with_its_type_and_kept(sqlite_api: Api, name: str) -> None:
    answer = sqlite_api.http.get(f"/page/{name}")
    assert answer.status_code == 200
    assert answer.content == (FOLDER / name).read_bytes()
    assert answer.headers["content-type"] == TYPES[Path(name).suffix]
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-content-type-options"] == "nosniff"
    again = sqlite_api.http.get(f"/page/{name}", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_text_is_compressed_for_those_who_take_it(sqlite_api: Api) -> None:
    def sent(name: str, encoding: str) -> tuple[int, str | None]:
        with sqlite_api.http.stream("GET", f"/page/{name}", headers={"Accept-Encoding": encoding}) as answer:
            assert answer.headers["vary"] == "Accept-Encoding"
            return len(b"".join(answer.iter_raw())), answer.headers.get("content-encoding")

    size = (FOLDER / "base.css").stat().st_size
    compressed, encoding = sent("base.css", "br, gzip")
    assert (compressed < size / 2, encoding) == (True, "gzip")
    assert sent("base.css", "identity") == (size, None)
    photo = "examples/wild.webp"
    assert sent(photo, "gzip") == ((FOLDER / photo).stat().st_size, None)


def test_the_policy_lets_nothing_in_from_elsewhere(sqlite_api: Api) -> None:
    policy = dict(
        directive.strip().partition(" ")[::2]
        for directive in sqlite_api.http.get("/").headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'self'"
    assert policy["img-src"] == "'self' blob: data:"
    assert policy["frame-ancestors"] == policy["object-src"] == policy["base-uri"] == "'none'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert "script-src" not in policy  # which would take the place of default-src
    assert not any("unsafe" in value or "*" in value or "http" in value for value in policy.values())


@pytest.mark.parametrize(
    "path",
    [
        *["/page/", "/page/nothing.js", "/page/examples", "/page/examples/README.md"],
        *["/page/../app.py", "/page/%2e%2e/app.py", "/page/..%2fapp.py", "/page//etc/passwd"],
    ],
)
def test_nothing_else_is_served(sqlite_api: Api, path: str) -> None:
    with sqlite_api.connect() as raw:  # a client library would tidy the path up
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"urn:pawlens:problem:not_found" in answer


def test_unknown_parts_are_problems(sqlite_api: Api) -> None:
    assert_problem(sqlite_api.http.get("/page/nothing.js"), 404, "not_found")


def test_the_page_is_open_where_the_service_wants_a_key(sqlite_api: Api) -> None:
    """It has nothing of anybody's in it, and it is where the key is entered."""
    make_key(sqlite_api, "somebody")
    wait_for_the_guard(sqlite_api)
    assert sqlite_api.http.get("/").status_code == 200
    assert sqlite_api.http.get("/page/main.js").status_code == 200


def test_html_has_no_script_and_no_style_of_its_own() -> None:
    assert re.findall(r"<script(?![^>]*\bsrc=)", INDEX) == []
    assert re.findall(r"<style|\bstyle=|\bon[a-z]+=", INDEX) == []


def test_all_that_is_referred_to_is_there() -> None:
    styles = "".join((FOLDER / name).read_text() for name in FILES if name.endswith(".css"))
    assert "url(" not in styles
    assert "@import" not in styles
    referred = set(re.findall(r'(?:href|src)="/page/([^"#]+)', INDEX))
    for name in SCRIPTS:
        referred.update(re.findall(r'from "\./([^"]+)"', (FOLDER / name).read_text()))
    assert referred <= set(FILES)
    unused = {name for name in FILES if name.endswith((".css", ".js"))} - referred
    assert unused == set()


def test_icons_that_scripts_name_are_drawn() -> None:
    drawn = set(re.findall(r'symbol id="([a-z]+)"', (FOLDER / "icons.svg").read_text()))
    text = "".join((FOLDER / name).read_text() for name in SCRIPTS)
    named = set(re.findall(r'\b(?:icon|iconButton|button)\(\s*"([a-z]+)"', text))
    assert named
    assert named <= drawn


def test_the_first_view_is_small() -> None:
    sizes = {name: (FOLDER / name).stat().st_size for name in FILES if not name.startswith("examples/")}
    assert sum(sizes.values()) < 200_000


def test_scripts_never_turn_text_into_markup_or_code() -> None:
    for name in SCRIPTS:
        text = (FOLDER / name).read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text), name


def test_files_are_short_enough_to_read() -> None:
    for name in SCRIPTS:
        assert len((FOLDER / name).read_text().splitlines()) <= 250, name
