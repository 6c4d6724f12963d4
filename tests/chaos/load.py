"""The clients of the soak: they post singles and batches, insist when refused, and listen for webhooks."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
from PIL import Image

BATCH_ITEMS = 50
CLIENTS = 8
PATIENCE_SECONDS = 60


def picture(number: int) -> bytes:
    """A small picture that no other number has."""
    file = io.BytesIO()
    colour = (number >> 16 & 255, number >> 8 & 255, number & 255)
    Image.new("RGB", (16, 16), colour).save(file, "PNG")
    return file.getvalue()


@dataclass
class Posted:
    """What the service has said that it accepted, and how often it had to be asked again."""

    jobs: dict[str, str] = field(default_factory=dict)  # id: SHA-256 of its picture
    batches: dict[str, int] = field(default_factory=dict)  # id: items
    with_webhook: set[str] = field(default_factory=set)
    refused: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Load:
    """Posts ``jobs`` jobs at ``per_second``: four of five in batches, some with a webhook."""

    def __init__(self, address: str, jobs: int, *, per_second: float, webhook_url: str) -> None:
        self.posted = Posted()
        self._address = address
        self._webhook_url = webhook_url
        self._per_second = per_second
        batches = jobs * 4 // 5 // BATCH_ITEMS
        singles = jobs - batches * BATCH_ITEMS
        numbers = iter(range(jobs))
        work: list[list[int]] = [[next(numbers) for _ in range(BATCH_ITEMS)] for _ in range(batches)]
        alone = [[number] for number in numbers]
        # One after the other, mixed evenly.
        mixed = [(i / max(batches, 1), one) for i, one in enumerate(work)]
        mixed += [(i / max(singles, 1), one) for i, one in enumerate(alone)]
        self._work = sorted(mixed)

    def run(self, requests: int | None = None) -> None:
        """Post so many requests, or all that are left. Returns when the last one is accepted.

        Raises:
            AssertionError: a request was answered by anything but acceptance or "come again".
        """
        started, sent = time.monotonic(), 0
        with httpx.Client(base_url=self._address, timeout=30) as http, ThreadPoolExecutor(CLIENTS) as pool:
            posts = []
            now, self._work = self._work[:requests], self._work[requests:] if requests else []
            for _, numbers in now:
                due = started + sent / self._per_second
                time.sleep(max(0.0, due - time.monotonic()))
                posts.append(pool.submit(self._post, http, numbers))
                sent += len(numbers)
            for post in posts:
                post.result()

    def _post(self, http: httpx.Client, numbers: list[int]) -> None:
        pictures = [picture(number) for number in numbers]
        key = {"Idempotency-Key": f"soak-{numbers[0]}"}
        if len(numbers) > 1:
            files = [("files", (f"{n}.png", data)) for n, data in zip(numbers, pictures, strict=True)]
            fields = {"webhook_url": self._webhook_url}
            made = self._insist(http, "/v1/batches", headers=key, files=files, data=fields)
            with self.posted.lock:
                self.posted.batches[made["id"]] = len(numbers)
                self.posted.with_webhook.add(made["id"])
            return
        fields = {"webhook_url": self._webhook_url} if numbers[0] % 5 == 0 else {}
        made = self._insist(http, "/v1/jobs", headers=key, files={"file": pictures[0]}, data=fields)
        with self.posted.lock:
            self.posted.jobs[made["id"]] = hashlib.sha256(pictures[0]).hexdigest()
            if fields:
                self.posted.with_webhook.add(made["id"])

    def _insist(self, http: httpx.Client, path: str, **request: Any) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            try:
                answer = http.post(path, **request)
            except httpx.TransportError as error:  # the API has just been killed
                self.posted.refused[type(error).__name__] += 1
            else:
                if answer.status_code in (200, 202):
                    return dict(answer.json())
                assert answer.status_code == 503, answer.text
                assert answer.headers["Retry-After"], answer.text
                self.posted.refused["503"] += 1
            time.sleep(0.2)
        raise AssertionError(f"{path} accepted nothing within {PATIENCE_SECONDS} s: {self.posted.refused}")


class Receiver(ThreadingHTTPServer):
    """Answers the first of each ten deliveries with 500 when it first comes, and all others with 200."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/hook"
        self.met: set[str] = set()  # every webhook-id that ever came
        self.accepted: Counter[str] = Counter()  # by webhook-id
        self.subjects: Counter[str] = Counter()  # accepted, by the job or batch that they tell of
        self.refused: dict[str, float] = {}
        self.again_after: list[float] = []  # seconds from a refusal to the delivery
        self.lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, daemon=True)

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()

    def take(self, message_id: str, body: bytes) -> int:
        with self.lock:
            if message_id not in self.met:
                self.met.add(message_id)
                if len(self.met) % 10 == 1:
                    self.refused[message_id] = time.monotonic()
                    return 500
            if message_id in self.refused and not self.accepted[message_id]:
                self.again_after.append(time.monotonic() - self.refused[message_id])
            self.accepted[message_id] += 1
            self.subjects[json.loads(body)["data"]["id"]] += 1
            return 200


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.server.take(self.headers["webhook-id"], body))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass
