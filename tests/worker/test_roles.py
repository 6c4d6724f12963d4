from pathlib import Path

from core.settings import Settings
from worker.roles import celery_worker, role


def test_downloads_have_threads_beside_those_that_send_webhooks(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, fetch_concurrency=32, webhook_concurrency=16)
    assert "--pool threads --concurrency 48 " in " ".join(role(settings, "io", "worker", "io").command)
    assert "--pool threads --concurrency 48 " in " ".join(celery_worker(settings, ["io"], "io-2")[0])


def test_with_a_model_queue_there_is_one_process(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    for queues in (["predict"], ["predict", "io"]):
        assert "--pool prefork --concurrency 1 " in " ".join(celery_worker(settings, queues)[0])
