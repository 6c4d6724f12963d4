"""``pawlens batch`` and ``client.batches`` against the real API with the stand-in engine."""

from __future__ import annotations

import csv
import json
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from api.cli import app
from api.client import ApiError, PawlensClient
from tests.api.conftest import EXAMPLES, Api


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three good pictures, one of them in a folder, and one that is none."""
    folder = tmp_path / "pets"
    (folder / "more").mkdir(parents=True)
    for name, example in (("a.jpg", 0), ("b.jpg", 1), ("more/c.jpg", 2)):
        (folder / name).write_bytes(EXAMPLES[example].read_bytes())
    (folder / "broken.jpg").write_bytes(EXAMPLES[3].read_bytes()[:200])
    (folder / "notes.txt").write_text("not a picture, and not sent")
    return folder


def invoke(api: Api, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["batch", *arguments, "--server", str(api.http.base_url)])


def rows_of(file: Path) -> list[dict[str, Any]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_a_folder_becomes_a_table_of_results(api: Api, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.csv"
    with api.working():
        result = invoke(api, str(photos), "--out", str(out))
    assert result.exit_code == 1, result.output  # one picture is broken
    rows = rows_of(out)
    assert [row["name"] for row in rows] == ["a.jpg", "b.jpg", "broken.jpg", "more/c.jpg"]
    assert [row["status"] for row in rows] == ["succeeded", "succeeded", "failed", "succeeded"]
    assert all(row["label"] in ("cat", "dog") for row in rows if row["status"] == "succeeded")
    assert rows[2]["error_code"] == "invalid_image"
    assert "completed: " in result.stdout
    assert "3 succeeded" in result.stdout
    assert "broken.jpg: " in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pets", "results.csv"]  # no part is left


def test_pictures_that_cannot_be_read_are_named_and_the_others_sent(
    sqlite_api: Api, photos: Path, tmp_path: Path
) -> None:
    (photos / "broken.jpg").unlink()
    out = tmp_path / "results.csv"
    (photos / "l.jpg").symlink_to("nowhere.jpg")
    with sqlite_api.working():
        result = invoke(sqlite_api, str(photos), "--out", str(out))
    assert result.exit_code == 1
    assert "l.jpg: Cannot read the file: No such file or directory\n" in result.stderr
    assert [row["status"] for row in rows_of(out)] == ["succeeded"] * 3


def test_a_folder_of_which_nothing_can_be_read(sqlite_api: Api, tmp_path: Path) -> None:
    folder = tmp_path / "pets"
    folder.mkdir()
    (folder / "l.jpg").symlink_to("nowhere.jpg")
    result = invoke(sqlite_api, str(folder), "--out", str(tmp_path / "results.csv"))
    assert result.exit_code == 1
    assert result.stderr == "l.jpg: Cannot read the file: No such file or directory\n"
    assert sqlite_api.http.get("/v1/batches").json()["batches"] == []


def test_names_that_are_not_utf_8_and_times_of_which_zip_knows_none(sqlite_api: Api, tmp_path: Path) -> None:
    folder, out = tmp_path / os.fsdecode(b"\xe9t\xe9"), tmp_path / os.fsdecode(b"\xe9.csv")
    folder.mkdir()
    for name in (b"caf\xe8.jpg", b"caf\xe9.jpg"):
        picture = folder / os.fsdecode(name)
        picture.write_bytes(EXAMPLES[0].read_bytes())
        os.utime(picture, (0, 0))  # 1970
    with sqlite_api.working():
        result = invoke(sqlite_api, str(folder), "--out", str(out))
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("/%E9.csv.\n")
    assert [row["name"] for row in rows_of(out)] == ["caf%E8.jpg", "caf%E9.jpg"]


def test_results_do_not_go_into_a_folder(sqlite_api: Api, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.csv"
    out.mkdir()
    result = invoke(sqlite_api, str(photos), "--out", str(out))
    assert result.exit_code == 2
    assert result.stderr == f"--out {out}: this is a folder; name a file in it.\n"
    assert sqlite_api.http.get("/v1/batches").json()["batches"] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pets", "results.csv"]


def test_a_zip_and_results_with_the_panels(sqlite_api: Api, photos: Path, tmp_path: Path) -> None:
    archive, out = tmp_path / "pets.zip", tmp_path / "results.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.write(photos / "a.jpg", "a.jpg")
    with sqlite_api.working():
        result = invoke(sqlite_api, str(archive), "--out", str(out), "--priority", "9")
    assert result.exit_code == 0, result.output
    with zipfile.ZipFile(out) as packed:
        assert {"results.jsonl", "results.csv"} <= set(packed.namelist())
        assert json.loads(packed.read("results.jsonl").splitlines()[0])["status"] == "succeeded"


def test_a_batch_that_was_left_can_be_followed_by_its_id(
    sqlite_api: Api, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "results.jsonl"
    with PawlensClient(str(sqlite_api.http.base_url)) as client:
        made = client.batches.submit(files=[photos / "a.jpg", photos / "b.jpg"], metadata={"album": 1})
    with sqlite_api.working():
        result = invoke(sqlite_api, made["id"], "--out", str(out))
    assert result.exit_code == 0, result.output
    assert [json.loads(line)["index"] for line in out.read_text().splitlines()] == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("missing", "--out", "results.csv"), "There is no missing."),
        ((".", "--out", "results.csv"), "holds no .jpg, .png or .webp"),
        ((".", "--out", "results.txt"), "ends in .csv, .jsonl, .zip"),
        ((".", "--out", "nowhere/results.csv"), "there is no folder"),
        (("batch_0", "--out", "results.csv"), "There is no batch"),
    ],
)
def test_what_cannot_work_is_said_in_a_sentence(
    sqlite_api: Api,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke(sqlite_api, *arguments)
    assert result.exit_code in (1, 2)
    assert sentence in result.stderr
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert list(tmp_path.iterdir()) == []


class TestClient:
    def test_from_files_to_results(self, api: Api, photos: Path) -> None:
        with PawlensClient(str(api.http.base_url)) as client, api.working():
            made = client.batches.submit(files=sorted(photos.glob("*.jpg")))
            assert (made["total"], made["rejected"], made["errors"][0]["name"]) == (3, 1, "broken.jpg")
            kinds = [event["type"] for event in client.batches.events(made["id"])]
            assert (kinds[0], kinds[-1]) == ("batch.created", "batch.completed")
            ended = client.batches.wait(made["id"], timeout=30)
            rows = list(client.batches.results(made["id"]))
            assert sum(ended["counts"].values()) == ended["total"] == len(rows) == 3
            assert [row["index"] for row in rows] == [0, 1, 2]
            assert client.batches.list(status="completed")["batches"][0]["id"] == made["id"]
            client.batches.delete(made["id"])
            with pytest.raises(ApiError) as refused:
                client.batches.get(made["id"])
            assert refused.value.status == 404

    def test_cancel_and_retry(self, api: Api, photos: Path) -> None:
        with PawlensClient(str(api.http.base_url)) as client:
            made = client.batches.submit(files=[photos / "a.jpg"])
            with pytest.raises(TimeoutError, match="running"):
                client.batches.wait(made["id"], timeout=0.2)
            canceled = client.batches.cancel(made["id"])
            assert (canceled["status"], canceled["counts"]["canceled"]) == ("canceled", 1)
            with pytest.raises(ApiError) as refused:  # nothing has failed
                client.batches.retry(made["id"])
            assert refused.value.status == 409

    def test_a_manifest_of_urls(self, sqlite_api: Api, tmp_path: Path) -> None:
        manifest = tmp_path / "pictures.csv"
        manifest.write_text("custom_id,url\r\n7,https://example.com/a.jpg\r\n8,ftp://example.com/b.jpg\r\n")
        with PawlensClient(str(sqlite_api.http.base_url)) as client:
            made = client.batches.submit(manifest=manifest)
            assert (made["counts"]["fetching"], made["counts"]["failed"]) == (1, 1)
            assert made["errors"][0]["custom_id"] == "8"

    def test_one_of_the_three_ways(self, sqlite_api: Api, photos: Path) -> None:
        with PawlensClient(str(sqlite_api.http.base_url)) as client:
            with pytest.raises(ValueError, match="either files, an archive or a manifest"):
                client.batches.submit()
            with pytest.raises(ValueError, match="either files, an archive or a manifest"):
                client.batches.submit(files=[photos / "a.jpg"], archive=photos / "a.jpg")


def test_results_that_cannot_be_written_are_kept(sqlite_api: Api, photos: Path, tmp_path: Path) -> None:
    (photos / "broken.jpg").unlink()
    out = tmp_path / f"{'x' * 300}.csv"
    with sqlite_api.working():
        result = invoke(sqlite_api, str(photos), "--out", str(out))
    assert result.exit_code == 1
    assert "File name too long" in result.stderr
    again = re.search(r"`pawlens batch (batch_\w+) --out FILE`", result.stderr)
    assert again, result.stderr
    good = tmp_path / "good.csv"
    assert invoke(sqlite_api, again[1], "--out", str(good)).exit_code == 0
    assert len(rows_of(good)) == 3


def test_a_download_that_fails_leaves_no_part(sqlite_api: Api, photos: Path, tmp_path: Path) -> None:
    with PawlensClient(str(sqlite_api.http.base_url)) as client:
        made = client.batches.submit(files=[photos / "a.jpg"])
        taken = tmp_path / "taken.csv"
        taken.mkdir()
        with pytest.raises(IsADirectoryError):
            client.batches.download(made["id"], taken, "csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pets", "taken.csv"]
