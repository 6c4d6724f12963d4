from __future__ import annotations

from pathlib import Path

from core.training.journal import Journal


def test_it_is_cut_off_at_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with Journal.reopened(path, 3) as journal:
        journal.write(1, loss=0.5)
    assert path.read_text() == '{"update": 1, "loss": 0.5}\n'
    path.write_text('{"update": 1}\n{"update": 3}\n{"update": 4}\n{"upda')
    with Journal.reopened(path, 3) as journal:
        journal.write(4, event="again")
    assert path.read_text() == '{"update": 1}\n{"update": 3}\n{"update": 4, "event": "again"}\n'
