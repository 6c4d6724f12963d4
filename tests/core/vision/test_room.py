from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from core.vision.room import Room


def test_never_is_more_taken_than_there_is() -> None:
    room, lock = Room(100), threading.Lock()
    taken, most = 0, 0

    def work(seed: int) -> None:
        nonlocal taken, most
        random.seed(seed)
        for wanted in random.choices([0, 1, 30, 60, 100], k=40):
            with room.taken(wanted):
                with lock:
                    taken += wanted
                    most = max(most, taken)
                time.sleep(0.0005)
                with lock:
                    taken -= wanted

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert most == 100


def test_who_wants_more_than_there_is_is_alone_and_is_not_overtaken() -> None:
    room, order = Room(100), list[str]()
    in_it, leave = threading.Event(), threading.Event()

    def take(name: str, wanted: int) -> None:
        with room.taken(wanted):
            order.append(name)
            in_it.set()
            leave.wait(10)

    def started(name: str, wanted: int) -> threading.Thread:
        thread = threading.Thread(target=take, args=(name, wanted))
        thread.start()
        return thread

    threads = [started("first", 1)]
    assert in_it.wait(10)
    threads.append(started("large", 1000))
    time.sleep(0.1)
    threads.append(started("small", 1))
    time.sleep(0.1)
    assert order == ["first"]
    leave.set()
    for thread in threads:
        thread.join(10)
    assert order == ["first", "large", "small"]


def test_an_error_gives_back_what_was_taken() -> None:
    room = Room(1)
    for _ in range(2):
        with pytest.raises(ValueError, match="on purpose"), room.taken(1):
            raise ValueError("on purpose")
    with room.taken(1):
        pass


PEAK_OF_EIGHT = """
import io, resource, sys
from concurrent.futures import ThreadPoolExecutor
from PIL import Image
from core.vision.images import inspect
file = io.BytesIO()
Image.new("RGB", (5000, 5000), "tan").save(file, **eval(sys.argv[1]))
data = file.getvalue()

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

inspect(data)
one = peak()
with ThreadPoolExecutor(8) as pool:
    list(pool.map(inspect, [data] * 8))
print(one, peak())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in bytes elsewhere")
@pytest.mark.parametrize(
    "form",
    [
        {"format": "WEBP", "lossless": True, "method": 0},
        {"format": "PNG"},
        {"format": "JPEG", "progressive": True, "subsampling": 0},
    ],
    ids=lambda form: form["format"],
)
def test_small_files_of_many_pixels_do_not_fill_the_memory(form: dict[str, object]) -> None:
    command = [sys.executable, "-c", PEAK_OF_EIGHT, repr(form)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    one, eight = map(int, done.stdout.split())
    assert eight < one + 256 + 64  # MiB: the room for all, and what the allocator keeps
