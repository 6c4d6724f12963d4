"""Which origins may have another place: full ones, slow ones and resting ones may not."""

from __future__ import annotations

import time

import pytest

from worker import origins
from worker.origins import Closed, Origins, origin

ELSEWHERE = "http://elsewhere.example/"
A, B, C = (f"http://{name}.example/" for name in "abc")


def closed(known: Origins) -> list[str] | None:
    """Origins, and then URLs; None when nothing is looked for."""
    seen: list[str] = []

    def look(found: Closed) -> str:
        seen.extend([*found.origins, *found.urls])
        return ELSEWHERE

    if known.take(look, str) is None:
        return None
    known.leave(ELSEWHERE, 0)
    return seen


def enter(known: Origins, where: str) -> None:
    assert known.take(lambda _: where, str) == where


def find_nothing(known: Origins) -> None:
    assert known.take(lambda _: None, str) is None


def went(known: Origins, where: str, seconds: float) -> None:
    enter(known, where)
    known.leave(where, seconds)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://a.example/x?y#z", A),
        ("HTTP://A.Example", A),
        ("http://a.example:80/", A),
        ("https://a.example:8443/x", "https://a.example:8443/"),
        ("http://[::1]:9/x", "http://[::1]:9/"),
    ],
)
def test_an_origin_is_the_beginning_of_its_urls(url: str, expected: str) -> None:
    assert origin(url) == expected


def test_one_that_has_its_places_is_closed_until_one_is_free() -> None:
    known = Origins(8, slow_seconds=5, each=2)
    enter(known, A)
    assert closed(known) == []
    enter(known, A)
    assert closed(known) == [A]
    known.leave(A, 0.1)
    assert closed(known) == []


def test_slow_ones_share_half_of_the_places() -> None:
    known = Origins(4, slow_seconds=5)
    went(known, A, 6)
    went(known, B, 6)
    enter(known, A)
    enter(known, C)  # quick, as far as is known
    enter(known, C)
    assert closed(known) == []
    enter(known, B)
    assert closed(known) == [A, B]
    known.leave(B, 6)
    assert closed(known) == []


def test_one_that_was_quick_again_is_slow_no_more() -> None:
    known = Origins(2, slow_seconds=5)
    went(known, A, 6)
    enter(known, A)
    assert closed(known) == [A]
    known.leave(A, 1)
    enter(known, A)
    enter(known, A)
    assert closed(known) == []


def test_one_that_asked_to_be_left_alone_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    known, now = Origins(8, slow_seconds=5), time.monotonic()
    known.rest(A + "hook", 30)
    assert closed(known) == [A + "hook"]
    monkeypatch.setattr(time, "monotonic", lambda: now + 31)
    assert closed(known) == []


def test_after_a_look_in_vain_the_next_one_has_time(monkeypatch: pytest.MonkeyPatch) -> None:
    known, now = Origins(8, slow_seconds=5), time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    known.rest(A, 30)
    enter(known, B)
    find_nothing(known)
    assert closed(known) is None
    known.leave(B, 0.1)
    assert closed(known) == [A], "a place is free, so there may be something to do"
    find_nothing(known)
    assert closed(known) is None
    monkeypatch.setattr(time, "monotonic", lambda: now + 1.1)
    assert closed(known) == [A]


def test_only_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origins, "MOST_KNOWN", 2)
    known = Origins(2, slow_seconds=5)
    for where in (A, B, C):
        went(known, where, 6)
    enter(known, C)
    assert closed(known) == [B, C]
    known.leave(C, 1)
    for url in (C, A, B, A):
        known.rest(url, 30)
    assert closed(known) == [A, B]
