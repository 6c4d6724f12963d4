from __future__ import annotations

import hashlib

import numpy as np
import pytest
from sqlalchemy import select

from core.database import Database
from core.jobs.blobs import Picture, store_blob, store_pictures
from core.jobs.tables import Blob, Image


def pictures(*sizes: int) -> list[Picture]:
    noise = np.random.default_rng(0)
    return [Picture(noise.bytes(size), size, 7, "image/png") for size in sizes]


def test_every_picture_comes_back_as_it_was(database: Database) -> None:
    given = pictures(1, 999, 1, 1000, 1001, 3000, 256, 400, 17)
    with database.write() as session:
        store_pictures(session, [*given, given[1]])
    with database.read() as session:
        stored = {blob.sha256: blob for blob in session.scalars(select(Blob))}
        known = {image.sha256: image for image in session.scalars(select(Image))}
    assert stored.keys() == known.keys() == {picture.sha256 for picture in given}
    for picture in given:
        blob, image = stored[picture.sha256], known[picture.sha256]
        assert blob.data == picture.data
        assert hashlib.sha256(blob.data).hexdigest() == blob.sha256
        assert (blob.size, image.width, image.height) == (len(picture.data), len(picture.data), 7)
        assert image.media_type == "image/png"
        assert blob.created_at.tzinfo is not None


def test_what_is_there_stays_as_it_is(database: Database) -> None:
    first, second = pictures(30, 40)
    with database.write() as session:
        store_pictures(session, [first])
    with database.read() as session:
        created_at = session.scalars(select(Blob.created_at)).one()
    with database.write() as session:
        store_pictures(session, [second, first])
    with database.read() as session:
        found = {blob.sha256: blob.created_at for blob in session.scalars(select(Blob))}
    assert found.keys() == {first.sha256, second.sha256}
    assert found[first.sha256] == created_at


@pytest.mark.parametrize("data", [b"", b"\x00", b"'\\\xff\x00" * 9])
def test_any_bytes_are_kept(database: Database, data: bytes) -> None:
    with database.write() as session:
        digest = store_blob(session, data)
    with database.read() as session:
        assert session.get_one(Blob, digest).data == data


def test_nothing_is_stored_of_nothing(database: Database) -> None:
    with database.write() as session:
        store_pictures(session, [])
    with database.read() as session:
        assert session.scalars(select(Blob)).all() == []
