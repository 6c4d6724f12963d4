import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from starlette.responses import JSONResponse, Response
from typer.testing import CliRunner, Result

from api.cli import app
from core.settings import ROOT
from tests.api.scripted_server import ScriptedServer, job, problem, serve
from worker.preflight import listen, sole_owner

COMMANDS = ("up", "api", "worker", "beat", "migrate", "doctor", "predict", "jobs", "watch")


def pawlens(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PAWLENS_")}
    return subprocess.run(
        [sys.executable, "-m", "api.cli", *arguments],
        env=ours | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def invoke(*arguments: str, server: ScriptedServer | None = None) -> Result:
    environment = {"PAWLENS_SERVER": server.address} if server else {}
    return CliRunner().invoke(app, arguments, env=environment)


def test_help_names_every_command_and_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from api.cli import app\n"
        "from typer.testing import CliRunner\n"
        "shown = CliRunner().invoke(app, ['--help'])\n"
        "heavy = {'torch', 'fastapi', 'sqlalchemy', 'celery', 'pydantic', 'httpx', 'numpy', 'PIL'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "print(shown.output)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded, _, shown = done.stdout.partition("\n")
    assert loaded == "[]"
    for command in COMMANDS:
        assert re.search(rf"\b{command}\b", shown)


@pytest.mark.parametrize(
    ("command", "defaults"),
    [
        ("up", ["(127.0.0.1)", "(8000)", "(.pawlens)"]),
        ("worker", ["(the queue)"]),
        ("explain", ["(the predicted one)"]),
        ("keys create", ["(the setting rate_per_second)"]),
        ("evaluate", ["(test)"]),
        ("bench engine", ["(the setting)", "(256 on CUDA, else 32)"]),
        ("bench plan", ["(the setting)"]),
    ],
)
def test_help_shows_defaults_that_are_not_in_the_signature(command: str, defaults: list[str]) -> None:
    """Written into the help by hand, in brackets, they would be markup to Rich, and not be shown."""
    shown = CliRunner().invoke(
        app, [*command.split(), "--help"], env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"}
    )
    for default in defaults:
        assert f"[default: {default}]" in re.sub(r"\s+", " ", shown.output)


def test_no_help_has_brackets_that_are_taken_for_markup() -> None:
    for path in sorted((ROOT / "api").glob("*.py")):
        assert not re.findall(r'help=\(?\s*"[^"]*\[[^"]*"', path.read_text()), path


def test_what_a_terminal_cannot_show_is_shown_otherwise() -> None:
    script = {"GET /v1/jobs": [JSONResponse({"jobs": [job(name="Käfer.jpg")], "next_cursor": None})]}
    with serve(script) as server:
        done = pawlens("jobs", PAWLENS_SERVER=server.address, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert r"K\xe4fer.jpg" in done.stdout


def test_nothing_here_needs_torch_or_numpy() -> None:
    code = (
        "import sys\n"
        "import api.app, api.cli, api.doctor, api.predictions, worker.supervisor, worker.beat, migrations\n"
        "import worker.downloads, worker.webhook_sender\n"
        "print(sorted({'torch', 'numpy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_version() -> None:
    assert re.fullmatch(r"pawlens \d+\.\d+\.\d+\n", invoke("--version").output)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for name in ("b.JPG", "a.png", "notes.txt", "deep/c.webp"):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "pictures"


def test_predict_takes_files_folders_and_urls(pictures: Path) -> None:
    script = {
        "POST /v1/jobs": [JSONResponse(job(status="queued"), 202)],
        f"GET /v1/jobs/{job()['id']}": [JSONResponse(job())],
    }
    with serve(script) as server:
        result = invoke("predict", str(pictures), "https://example.com/d.jpg", server=server)
        assert result.exit_code == 0, result.output
        posted = [asked.form for asked in server.asked if asked.method == "POST"]
    assert sorted(form.get("file", b"") for form in posted) == [b"", b"a.png", b"b.JPG", b"deep/c.webp"]
    assert {form.get("url") for form in posted} == {None, "https://example.com/d.jpg"}
    header, *rows = result.stdout.splitlines()
    assert header.split() == ["name", "label", "probability", "margin", "ms", "job"]
    assert [row.split()[0] for row in rows] == ["a.png", "b.JPG", "c.webp", "https://example.com/d.jpg"]
    assert rows[0].split()[1:] == ["cat", "0.9000", "2.20", "250", job()["id"]]


def test_predict_tells_why_some_failed_and_answers_for_the_others(pictures: Path) -> None:
    refusal = problem(415, "unsupported_media_type", "Unsupported media type", "It is [a] text.")
    failed = job(2, "failed", error={"code": "worker_lost", "title": "Worker lost", "detail": "Thrice."})
    script: dict[str, list[Response]] = {
        "POST /v1/jobs": [refusal, JSONResponse(job(2, "queued"), 202), JSONResponse(job(3, "queued"), 202)],
        f"GET /v1/jobs/{job(2)['id']}": [JSONResponse(failed)],
        f"GET /v1/jobs/{job(3)['id']}": [JSONResponse(job(3))],
    }
    names = [str(pictures / "a.png"), str(pictures / "b.JPG"), str(pictures / "notes.txt"), "missing.jpg"]
    with serve(script) as server:
        result = invoke("predict", *names, server=server)
        assert server.count("POST /v1/jobs") == 3
    assert result.exit_code == 1
    for reason in (
        "Unsupported media type: It is [a] text.",
        "Worker lost: Thrice.",
        "Cannot read the file: No such file or directory",
    ):
        assert reason in result.stdout
    assert "0.9000" in result.stdout
    assert "3 of 4 failed." in result.stderr


def test_predict_as_json_is_one_object_a_line_in_order(pictures: Path) -> None:
    script = {
        "POST /v1/jobs": [JSONResponse(job(status="queued"), 202)],
        f"GET /v1/jobs/{job()['id']}": [JSONResponse(job())],
    }
    names = [str(pictures / name) for name in ("b.JPG", "missing.jpg", "a.png")]
    with serve(script) as server:
        result = invoke("predict", "--json", *names, server=server)
    assert result.exit_code == 1
    first, second, third = map(json.loads, result.stdout.splitlines())
    assert first == {"source": names[0], **job()}
    assert second == {
        "source": names[1],
        "error": {
            "code": "unreadable",
            "title": "Cannot read the file",
            "detail": "No such file or directory",
        },
    }
    assert third == {"source": names[2], **job()}


def test_predict_of_a_folder_without_pictures(tmp_path: Path) -> None:
    result = invoke("predict", str(tmp_path))
    assert result.exit_code == 1
    assert "holds no .jpg" in result.stderr


@pytest.mark.parametrize("command", [("predict", "x.jpg"), ("jobs",), ("watch", "job_1")])
def test_nobody_answers(command: tuple[str, ...]) -> None:
    result = invoke(*command, "--server", "http://127.0.0.1:9")  # discard: nobody listens
    assert result.exit_code == 1
    assert "No Pawlens answers (http://127.0.0.1:9: " in result.stderr
    assert "pawlens up" in result.stderr


def test_the_key_is_sent(pictures: Path) -> None:
    with serve({"GET /v1/jobs": [JSONResponse({"jobs": [], "next_cursor": None})]}) as server:
        invoke("jobs", "--api-key", "secret", server=server)
        assert server.last("GET /v1/jobs").headers["authorization"] == "Bearer secret"


def test_jobs_lists_what_the_filter_leaves() -> None:
    failed = job(2, "failed", error={"code": "worker_lost", "title": "Worker lost", "detail": ""})
    page = {"jobs": [failed, job(1)], "next_cursor": job(1)["id"]}
    with serve({"GET /v1/jobs": [JSONResponse(page)]}) as server:
        result = invoke("jobs", "--status", "failed", "--status", "succeeded", "--limit", "2", server=server)
        assert server.last("GET /v1/jobs").query == [
            ("status", "failed"),
            ("status", "succeeded"),
            ("limit", "2"),
        ]
    assert result.exit_code == 0
    _, *rows = result.stdout.splitlines()
    assert rows[0].split() == [
        job(2)["id"],
        *("predict", "failed", "2026-01-02", "03:04:05", "2.jpg", "Worker", "lost"),
    ]
    assert rows[1].split()[-2:] == ["1.jpg", "cat"]


def test_watch_shows_each_change_once() -> None:
    path = f"/v1/jobs/{job()['id']}"
    queued, running = job(status="queued"), job(status="running", event_seq=2, queue=None)
    answers = [JSONResponse(answer) for answer in (queued, queued, running, job())]
    with serve({f"GET {path}": answers}) as server:
        result = invoke("watch", job()["id"], server=server)
        assert [dict(asked.query).get("after") for asked in server.asked[1:]] == [None, "1", "1", "2"]
    assert result.exit_code == 0
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["1", "queued", "0/1", "position", "3"],
        ["2", "running", "0/1"],
        ["3", "succeeded", "1/1", "cat", "90.0%"],
    ]


def test_watch_of_an_unknown_job() -> None:
    with serve({}) as server:
        result = invoke("watch", "job_1", server=server)
    assert result.exit_code == 1
    assert result.stderr == "Not found: no /v1/jobs/job_1\n"


def exec_of(*arguments: str, **environment: str) -> tuple[list[str], dict[str, str], str]:
    """What the command would become: program and arguments, environment, working directory."""
    code = (
        "import json, os, sys\n"
        "def show(path, arguments, environment):\n"
        "    print(json.dumps([arguments, environment, os.getcwd()]))\n"
        "    sys.exit()\n"
        "os.execve = show\n"
        "from api.cli import main\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | environment,
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    command, seen, folder = json.loads(done.stdout)
    return command, seen, folder


def test_a_model_worker_runs_in_one_child_process(tmp_path: Path) -> None:
    config = tmp_path / "a.yaml"
    config.write_text("log_level: INFO\n")
    command, environment, folder = exec_of(
        "worker",
        "predict",
        PAWLENS_PORT="9001",
        PAWLENS_WORKER_ID="of another",
        PAWLENS_CONFIG=str(config).lstrip("/"),
        PAWLENS_DATABASE_URL="sqlite:///tmp/relative.db",
    )
    assert command[0] == sys.executable
    assert " ".join(command[1:]) == (
        "-m celery --quiet -A worker.app worker -Q predict -n predict@%h --pool prefork --concurrency 1 "
        "--without-gossip --without-mingle"
    )
    assert folder == str(ROOT)
    assert environment["PAWLENS_WORKER_QUEUE"] == "predict"
    assert environment["PAWLENS_PORT"] == "9001"
    assert "PAWLENS_WORKER_ID" not in environment
    # They were relative to the folder in which the command was given, which is no longer the working one.
    assert environment["PAWLENS_CONFIG"] == str(config)
    assert environment["PAWLENS_DATABASE_URL"] == "sqlite:////tmp/relative.db"


@pytest.mark.parametrize(
    ("arguments", "queues", "rest"),
    [
        (["io"], "io", "-n io@%h --pool threads --concurrency 16"),
        (["predict", "--name", "gpu1"], "predict", "-n gpu1@%h --pool prefork --concurrency 1"),
        (
            ["predict", "explain", "predict"],
            "predict,explain",
            "-n predict-explain@%h --pool prefork --concurrency 1",
        ),
        (["io", "explain"], "io,explain", "-n io-explain@%h --pool prefork --concurrency 1"),
    ],
)
def test_workers_of_other_queues(arguments: list[str], queues: str, rest: str) -> None:
    command, environment, _ = exec_of("worker", *arguments)
    assert f"-Q {queues} {rest} " in " ".join(command)
    assert environment["PAWLENS_WORKER_QUEUE"] == queues


def test_a_worker_of_downloads_has_the_threads_that_the_settings_ask_for() -> None:
    asked = {"PAWLENS_FETCH_CONCURRENCY": "32", "PAWLENS_WEBHOOK_CONCURRENCY": "16"}
    command, environment, _ = exec_of("worker", "io", **asked)
    assert "--pool threads --concurrency 48 " in " ".join(command)
    assert asked.items() <= environment.items()


def test_beat() -> None:
    assert exec_of("beat")[0][1:] == ["-m", "worker.beat"]


def test_a_worker_of_no_such_queue() -> None:
    result = invoke("worker", "predikt")
    assert result.exit_code == 1
    assert result.stderr == "There is no queue 'predikt'. The queues are predict, explain, io.\n"


def test_up_refuses_with_one_sentence(tmp_path: Path) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        done = pawlens("up", "--port", port, "--data", str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(rf"Port {port} on 127\.0\.0\.1 is in use .*\n", done.stderr)
    assert list(tmp_path.iterdir()) == []

    with sole_owner(tmp_path):
        done = pawlens("up", "--data", str(tmp_path))
    assert done.returncode == 1
    assert re.fullmatch(rf"Another `pawlens up` \(pid {os.getpid()}\) .*\n", done.stderr)

    done = pawlens("up", "--data", str(tmp_path), PAWLENS_WEIGHTS=str(tmp_path / "none.json"))
    assert done.returncode == 1
    assert re.fullmatch(r"The manifest .*none\.json cannot be read .*\n", done.stderr)


@pytest.mark.parametrize("command", ["up", "api"])
def test_nothing_is_opened_to_other_machines_by_accident(command: str, tmp_path: Path) -> None:
    done = pawlens(command, "--host", "0.0.0.0", PAWLENS_DATA_DIR=str(tmp_path / "data"))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Refusing to listen on 0.0.0.0")
    assert not (tmp_path / "data").exists()


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    done = pawlens("migrate", PAWLENS_PORT="many", PAWLENS_DATA_DIR=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("Setting port (PAWLENS_PORT): Input should be a valid integer")
    (tmp_path / "bad.yaml").write_text("port: [")
    done = pawlens("migrate", PAWLENS_CONFIG=str(tmp_path / "bad.yaml"))
    assert done.returncode == 1
    assert done.stderr.startswith("The settings file is not valid YAML")


@pytest.mark.parametrize("command", [["doctor"], ["migrate"], ["worker", "io"]])
def test_a_settings_file_that_is_not_there(command: list[str]) -> None:
    done = pawlens(*command, PAWLENS_CONFIG="/nowhere.yaml")
    assert done.returncode == 1
    assert done.stderr == "PAWLENS_CONFIG names /nowhere.yaml, and there is no such file.\n"


def test_migrate_makes_the_folder_and_the_tables(tmp_path: Path) -> None:
    for _ in range(2):
        done = pawlens("migrate", PAWLENS_DATA_DIR=str(tmp_path / "new"))
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "new" / "pawlens.db").stat().st_size > 0
