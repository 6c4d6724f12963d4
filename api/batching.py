"""Accepting a batch: its pictures are looked at and stored a few at a time, and then all is made at once.

What is stored before the end belongs to nobody yet. So a refusal or a crash in between makes nothing half:
:mod:`core.jobs.retention` removes bytes to which nothing refers.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import pairwise

from anyio import CapacityLimiter, to_thread
from fastapi import Request
from sqlalchemy.orm import Session

from api.batch_given import Given
from api.batch_items import AskedBatch
from api.batch_schemas import BatchOut
from api.service import Service
from api.submissions import asked_methods, check_receiver
from core.errors import InternalError, InvalidRequest, PawlensError, PayloadTooLarge
from core.jobs import batch_changes, batch_queries, batches, completion, retention, webhooks
from core.jobs.batches import Item, PicturesGone, Wishes
from core.jobs.blobs import Picture, store_pictures
from core.jobs.ids import new_id
from core.jobs.states import Queue
from core.jobs.submit import Idempotency, Naming, made_before, name_request
from core.logs import correlation_id
from core.vision import images

CHUNK_ITEMS = 100
CHUNK_BYTES = 8 << 20
"""Of pictures in one transaction, and twice that in memory, unless a single one is larger."""

REMOVE_JOBS = 50
"""Of a batch that is deleted, in one transaction."""
TRIES = 5
CANCEL_SECONDS = 10.0


class Batching:
    """Made once per process. The blocking methods are called in threads."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._database = service.database
        # Each batch takes its time of every core: a second waits less than it would hinder the first.
        self._doors = CapacityLimiter(2)
        self._lookers = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="look")

    def stop(self) -> None:
        self._lookers.shutdown()

    async def accept(
        self, asked: AskedBatch, once: Idempotency | None, *, owner: str | None
    ) -> tuple[BatchOut, bool]:
        """The new batch, or that which this very request has made before, and then True.

        Raises:
            InvalidRequest: no item can be accepted; ``errors`` says why, the first 100 of them.
            QueueFull: so many jobs would wait behind too many others.
            IdempotencyKeyReused: another request has come with this key.
        """
        return await to_thread.run_sync(self._accept, asked, once, owner, limiter=self._doors)

    def _accept(
        self, asked: AskedBatch, once: Idempotency | None, owner: str | None
    ) -> tuple[BatchOut, bool]:
        if once is not None:
            with self._database.read() as session:
                made = made_before(session, once, owner=owner)
            if made is not None:
                return self.batch(made, owner=owner), True
        wishes = self._wishes(asked)
        self._make_room(wishes, asked.items)  # first: a full service had better not decode pictures
        items = self._store(asked.items)
        if all(item.error for item in items):
            raise InvalidRequest(
                f"None of the {len(items):,} items can be accepted. Why is in errors, for the first "
                f"{batch_queries.MAX_ERRORS}.",
                errors=[_shown(item) for item in items[: batch_queries.MAX_ERRORS]],
            )
        batch_id = new_id("batch")
        made = self._create(batch_id, wishes, asked.items, items, once, owner)
        if made != batch_id:
            return self.batch(made, owner=owner), True
        return self.batch(batch_id, owner=owner), False

    def _wishes(self, asked: AskedBatch) -> Wishes:
        fields, settings = asked.fields, self._service.settings
        self._service.check_target(fields.options.target)
        return Wishes(
            methods=asked_methods(fields.methods),
            options=fields.options.model_dump(mode="json"),
            priority=fields.priority,
            deadline_seconds=fields.deadline_seconds,
            metadata=fields.metadata,
            webhook_url=None if fields.webhook_url is None else check_receiver(fields.webhook_url, settings),
            webhook_events=fields.webhook_events,
        )

    def _make_room(self, wishes: Wishes, items: Sequence[Given]) -> None:
        waiting = Counter(Queue.IO if item.url else wishes.queue for item in items if item.error is None)
        for queue, count in waiting.items():
            self._service.throughput.accept(queue, count)

    def _store(self, given: Sequence[Given]) -> list[Item]:
        """Look at every picture and store the good ones: some, while the next are looked at."""
        items: list[Item] = []
        ahead: list[Future[Picture | PawlensError | None]] = []
        chunks: list[list[Given]] = [[], *_chunks(given), []]
        try:
            for some, after in pairwise(chunks):
                looking, ahead = ahead, [self._lookers.submit(self._look, one) for one in after]
                looked = [look.result() for look in looking]
                pictures = [found for found in looked if isinstance(found, Picture)]
                if pictures:
                    with self._database.write() as session:
                        store_pictures(session, pictures)
                items += [_item(one, found) for one, found in zip(some, looked, strict=True)]
        finally:
            wait(ahead)  # when something has failed: nobody may read an upload that is closed
        return items

    def _look(self, given: Given) -> Picture | PawlensError | None:
        """The picture, or why it is none; None for a URL."""
        if given.error is not None or given.read is None:
            return given.error
        settings = self._service.settings
        if given.size > settings.max_image_bytes:
            return PayloadTooLarge(f"The picture is larger than {settings.max_image_bytes:,} bytes.")
        try:
            data = given.read()
            info = images.inspect(data, max_pixels=settings.max_pixels)
        except PawlensError as error:
            return error
        return Picture(data, info.width, info.height, info.media_type)

    def _create(
        self,
        batch_id: str,
        wishes: Wishes,
        given: Sequence[Given],
        items: Sequence[Item],
        once: Idempotency | None,
        owner: str | None,
    ) -> str:
        for _ in range(TRIES):
            try:
                with self._database.write() as session:
                    made = batches.create_once(
                        session,
                        batch_id,
                        once,
                        owner,
                        items=items,
                        wishes=wishes,
                        max_attempts=self._service.settings.max_attempts,
                        correlation_id=correlation_id.get(),
                    )
                    has_deliveries = webhooks.written(session)
            except PicturesGone as gone:  # with the last other job that had them
                self._store(
                    [one for one, item in zip(given, items, strict=True) if item.image_sha256 in gone.digests]
                )
                continue
            if made == batch_id:
                self._hint(wishes, items, has_deliveries=has_deliveries)
            return made
        raise InternalError("The batch's pictures are removed as fast as they are stored. Try again later.")

    def _hint(self, wishes: Wishes, items: Sequence[Item], *, has_deliveries: bool) -> None:
        for queue, count in batches.queues_of(wishes, items).items():
            self._service.hints.note(queue, count)
        if has_deliveries:
            self._service.hints.note(Queue.IO)

    def batch(self, batch_id: str, *, owner: str | None) -> BatchOut:
        with self._database.read() as session:
            return BatchOut.of(batch_queries.get_batch(session, batch_id, owner=owner))

    async def wait(
        self, batch_id: str, seconds: float, *, owner: str | None, after: int | None = None
    ) -> BatchOut:
        """The batch once it has ended, has an event above ``after``, or the time is up."""
        if seconds > 0:
            # Waiting for another owner's would tell that it is there.
            await asyncio.to_thread(self.batch, batch_id, owner=owner)
            await self._service.watcher.wait(batch_id, seconds, after=after)
        return await asyncio.to_thread(self.batch, batch_id, owner=owner)

    def cancel(self, batch_id: str, *, owner: str | None) -> BatchOut:
        # Workers lock the jobs that they end in an order of their own. PostgreSQL breaks such a knot by
        # refusing one of the two, who then begins again.
        def work(session: Session) -> bool:
            batch_changes.cancel(session, batch_id, owner=owner)
            completion.look_now(session)
            return webhooks.written(session)

        if self._database.write_until(work, give_up_after=CANCEL_SECONDS):
            self._service.hints.note(Queue.IO)
        return self.batch(batch_id, owner=owner)

    def retry(self, batch_id: str, once: Idempotency | None, *, owner: str | None) -> tuple[BatchOut, bool]:
        """A new batch of what failed or expired. Its pictures are there, unless its jobs are deleted.

        When this very request has come before: its batch as it is now, and True.
        """
        new = new_id("batch")
        for _ in range(TRIES):
            try:
                with self._database.write() as session:
                    made = new if once is None else name_request(session, Naming(new, once, owner))
                    if made != new:
                        break
                    wishes, items = batch_changes.to_retry(session, batch_id, owner=owner)
                    for queue, count in batches.queues_of(wishes, items).items():
                        self._service.throughput.accept(queue, count)
                    batches.create(
                        session,
                        new,
                        items=items,
                        wishes=wishes,
                        max_attempts=self._service.settings.max_attempts,
                        owner=owner,
                        correlation_id=correlation_id.get(),
                        retry_of=batch_id,
                    )
            except PicturesGone:
                continue
            self._hint(wishes, items, has_deliveries=False)
            return self.batch(new, owner=owner), False
        else:
            raise InternalError("The batch's jobs are being deleted. Try again later.")
        return self.batch(made, owner=owner), True

    def delete(self, batch_id: str, *, owner: str | None) -> None:
        gone = False
        while not gone:
            with self._database.write() as session:
                gone = retention.delete_batch(session, batch_id, owner=owner, limit=REMOVE_JOBS)


def _chunks(given: Sequence[Given]) -> Iterator[list[Given]]:
    chunk: list[Given] = []
    size = 0
    for one in given:
        if chunk and (len(chunk) == CHUNK_ITEMS or size + one.size > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(one)
        size += one.size
    if chunk:
        yield chunk


def _item(given: Given, found: Picture | PawlensError | None) -> Item:
    if isinstance(found, PawlensError):
        return Item(given.index, given.name, given.custom_id, error=given.shown(found))
    return Item(
        given.index,
        given.name,
        given.custom_id,
        image_sha256=None if found is None else found.sha256,
        url=given.url,
    )


def _shown(item: Item) -> dict[str, object]:
    error = item.error or {}
    names = {"index": item.index, "name": item.name, "custom_id": item.custom_id}
    return names | {"code": error["code"], "detail": error["detail"]}


async def get_batching(request: Request) -> Batching:
    batching: Batching = request.app.state.batching
    return batching
