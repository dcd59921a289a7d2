"""``resize-lora ui`` as a process, from an installed wheel and outside of the checkout, under every Gradio."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lib_resize.cli.main import main
from lib_resize.demo.synthetic import LoraOptions, write_lora

START = 240.0


def command(python: str, installed: Path, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """``resize-lora ui`` and the environment to run it in."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONUTF8": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
    return [python, "-m", "lib_resize", "ui", *arguments], environment


def run(python: str, installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Where it has to end by itself."""
    called, environment = command(python, installed, *arguments)
    return subprocess.run(
        called, cwd=installed, env=environment, capture_output=True, encoding="utf-8", timeout=START, check=False
    )


@contextlib.contextmanager
def serving(python: str, installed: Path, *arguments: str) -> Iterator[int]:
    """The port at which the panel answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    called, environment = command(python, installed, *arguments, "--port", str(port))
    log = installed / f"{port}.txt"
    with log.open("wb") as out:
        process = subprocess.Popen(called, cwd=installed, env=environment, stdout=out, stderr=out)
    try:
        _wait(port, process, log)
        yield port
    finally:
        process.terminate()
        process.wait(20)
    assert f"Resize LoRA runs at http://127.0.0.1:{port}/" in log.read_text("utf-8")
    assert "Traceback" not in log.read_text("utf-8")


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text("utf-8")
        with contextlib.suppress(OSError):
            ask(port, "/")
            return
        time.sleep(0.2)
    raise TimeoutError(log.read_text("utf-8"))


def ask(port: int, path: str, body: str | None = None, **headers: str) -> tuple[int, str]:
    """Status and text of one answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST" if body else "GET", path, body, named)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def call(port: int, method: str, params: dict[str, Any] | None = None, /, **headers: str) -> tuple[int, Any]:
    """Status and answer of one call, sent as Gradio's script sends it."""
    question = json.dumps({"id": 1, "method": method, "params": params or {}})
    body = json.dumps({"data": [question], "fn_index": 0, "session_hash": "tests"})
    status, text = ask(port, "/run/predict", body, content_type="application/json", **headers)
    return status, json.loads(json.loads(text)["data"][0]) if status == 200 else text


@pytest.fixture(scope="session")
def demo(python: str, installed: Path) -> Iterator[int]:
    with serving(python, installed, "--demo") as port:
        yield port


def test_the_demo_answers_with_the_page_its_script_and_its_words(demo: int) -> None:
    status, page = ask(demo, "/")
    assert status == 200
    assert "/resize-lora/resize_lora_90_start.js" in page.partition("</head>")[0]
    assert "window.resizeLoraLanguages" in page
    assert "再読み込み" in page or "更新" in page
    assert ask(demo, "/resize-lora/resize_lora_90_start.js")[0] == 200
    assert ask(demo, "/resize-lora/style.css")[0] == 200


def test_the_demo_has_loras_and_a_checkpoint(demo: int) -> None:
    status, answer = call(demo, "hello")
    assert status == 200
    assert answer["result"]["checkpoints"] == ["small_sdxl.safetensors"]
    assert answer["result"]["counts"]["loras"] == 3


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Host": "evil.example"},
        {"Host": "evil.example:7867", "Origin": "http://evil.example:7867"},
        {"Host": "["},
    ],
    ids=lambda headers: " ".join(headers.values()),
)
def test_another_sites_page_is_refused(demo: int, headers: dict[str, str]) -> None:
    assert call(demo, "hello", **headers)[0] == 403
    assert ask(demo, "/", **headers)[0] == 403


def test_its_own_page_is_not_refused(demo: int) -> None:
    assert call(demo, "hello", Origin=f"http://127.0.0.1:{demo}")[0] == 200
    named = f"localhost:{demo}"
    assert call(demo, "hello", Host=named, Origin=f"http://{named}")[0] == 200


def test_a_port_in_use_is_reported_with_a_remedy(demo: int, python: str, installed: Path) -> None:
    ended = run(python, installed, "--demo", "--port", str(demo))
    assert ended.returncode == 2
    assert f"--port {demo}: " in ended.stderr
    assert "choose another with --port" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_a_folder_with_spaces_and_chinese_characters_is_served(
    python: str, installed: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("ui") / "我的 LoRA 文件夹 & more"
    (folder / "画 风").mkdir(parents=True)
    write_lora(folder / "画 风" / "糕点 v1.safetensors", LoraOptions(rank=2, seed=1))
    with serving(python, installed, "--lora-dir", str(folder)) as port:
        files = wait_for_library(port)
        assert [(one["name"], one["folder"], one["rank"]) for one in files] == [("糕点 v1", "画 风", 2)]


def wait_for_library(port: int) -> list[dict[str, Any]]:
    """Headers are read in the background."""
    for _ in range(100):
        _, answer = call(port, "library")
        if answer["result"]["complete"]:
            files: list[dict[str, Any]] = answer["result"]["files"]
            return files
        time.sleep(0.1)
    raise TimeoutError(answer)


def test_a_missing_folder_is_reported_by_name(python: str, installed: Path, tmp_path: Path) -> None:
    ended = run(python, installed, "--lora-dir", str(tmp_path / "no such"))
    assert ended.returncode == 1
    assert str(tmp_path / "no such") in ended.stderr
    assert "Check --lora-dir" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_without_gradio_it_says_what_to_install() -> None:
    hidden = "import sys; sys.modules['gradio'] = None"
    called = f"{hidden}; from lib_resize.cli.main import main; sys.exit(main(['ui', '--demo']))"
    ended = subprocess.run([sys.executable, "-c", called], capture_output=True, encoding="utf-8", check=False)
    assert ended.returncode == 2
    assert 'pip install ".[ui]"' in ended.stderr
    assert "Traceback" not in ended.stderr


SECRET = "a text that no browser may read"


@pytest.fixture(scope="session")
def folder_with_secret(installed: Path) -> Path:
    """The folder that the panel is started in, with a file of the person's in it."""
    (installed / "notes.txt").write_text(SECRET, "utf-8")
    return installed


@pytest.mark.parametrize(
    "path", ["/file=notes.txt", "/file=./notes.txt", "/file/notes.txt", "/file=/etc/hostname", "/config", "/upload",
             "/assets/../notes.txt", "/static/notes.txt", "/queue/data?session_hash=a", "/monitoring", "/token"],
)  # fmt: skip
def test_no_file_and_no_other_route_is_served(demo: int, folder_with_secret: Path, path: str) -> None:
    status, text = ask(demo, path)
    assert status == 404
    assert SECRET not in text


def test_no_address_is_fetched_for_a_browser(demo: int) -> None:
    """Gradio downloads everything that an event's data names as a file, so none of it may reach Gradio."""
    with socket.create_server(("127.0.0.1", 0)) as inside:
        inside.settimeout(1.0)
        named = {"path": f"http://127.0.0.1:{inside.getsockname()[1]}/admin", "meta": {"_type": "gradio.FileData"}}
        for path in ("/run/predict", "/api/predict", "/run/predict/", "/queue/join", "/call/predict"):
            body = json.dumps({"fn_index": 0, "data": [named], "session_hash": "s"})
            assert ask(demo, path, body, content_type="application/json")[0] in (400, 404)
        with pytest.raises(TimeoutError):
            inside.accept()


def test_with_auth_the_page_and_the_api_need_the_login(python: str, installed: Path) -> None:
    code = base64.b64encode(b"me:secret").decode()
    with serving(python, installed, "--demo", "--api", "--auth", "me:secret") as port:
        for path in ("/", "/resize-lora/resize_lora_90_start.js", "/resize-lora/v1/hello"):
            assert ask(port, path)[0] == 401
            assert ask(port, path, Authorization=f"Basic {code}")[0] == 200
        assert call(port, "hello")[0] == 401
        assert call(port, "hello", Authorization=f"Basic {code}")[0] == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "my-machine"])
def test_other_machines_are_let_in_only_with_a_login(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ui", "--demo", "--host", host]) == 2
    errors = capsys.readouterr().err
    assert f"--host {host} lets other machines in" in errors
    assert "--auth USER:PASSWORD" in errors


@pytest.mark.parametrize("auth", ["", "me", "me:", ":secret", "me:secret,other:", "me:secret,other"])
def test_a_login_that_opens_nothing_or_everything_is_refused(auth: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ui", "--demo", "--auth", auth]) == 2
    assert "--auth needs a name and a password" in capsys.readouterr().err
