"""`cog.pyz serve --engine none`: a model in a process of this machine, behind a port of it."""
from __future__ import annotations

import re
import shutil
import signal
import socket
import sys
from pathlib import Path

import pytest
from processproject import OLD, each_python, is_quiet, list_processes, needs_old
from servedmodel import Served, ask, ask_last, is_open, needs_ipv6, wait_until

pytestmark = [pytest.mark.index, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = [sys.executable, str(ROOT / "cogpredict.py")]


@pytest.fixture
def serve(projects):
    """A function that starts to serve a model on a Python, on a free port; nothing of it may run in the end."""
    started = []

    def start(python, model, *words):
        project = projects(python).use(model)
        started.append(Served(PROGRAM, project.folder, "--engine", "none", "-p", "0", *words))
        started[-1].folder = project.folder
        return started[-1]

    yield start
    for served in started:
        served.kill()
        assert is_quiet(str(served.folder))


@each_python
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_model_answers_until_a_signal_ends_it(serve, python, number):
    served = serve(python, "logs")
    url = served.url()
    assert ask(f"{url}/health-check")[1]["status"] == "READY"
    status, answer = ask(f"{url}/predictions", {"input": {"lines": 4, "errors": True}})
    assert (status, answer["output"]) == (200, "printed 4")
    wait_until(lambda: all(f"0000000{number} x" in served.printed() for number in range(4)))
    assert served.end(number) == -number
    assert "Traceback" not in served.text() and "error: " not in served.text()
    wait_until(lambda: not is_open(int(url.rpartition(":")[2])))
    if python == OLD:
        assert re.findall(r"(?m)^(\d{8}) x", served.out.read_text()) == ["00000000", "00000002"]
    else:
        assert "00000003 x" in served.text()


@each_python
@pytest.mark.parametrize("host, url", [pytest.param("::1", r"http://\[::1\]:(\d+)", marks=needs_ipv6),
                                       ("0.0.0.0", r"http://0\.0\.0\.0:(\d+) .here: ")])
def test_every_kind_of_address_is_listened_on(serve, python, host, url):
    served = serve(python, "echo", "--host", host)
    port = served.wait_for(f"Serving at {url}")[1]
    assert ask(f"http://{'[::1]' if ':' in host else '127.0.0.1'}:{port}/health-check")[1]["status"] == "READY"
    assert served.end() == -signal.SIGINT


@each_python
def test_its_own_api_can_end_it(serve, python):
    served = serve(python, "echo")
    ask_last(f"{served.url()}/shutdown", {})
    assert served.process.wait(15) == 0


@each_python
def test_a_model_that_dies_is_told(serve, python):
    served = serve(python, "echo", "-e", "MARKED=1")
    served.url()
    leader = next(path.parent for path in Path("/proc").glob("[0-9]*/environ") if is_server(path, served.folder))
    import os

    os.kill(int(leader.name), signal.SIGKILL)
    assert served.process.wait(15) == 6 and "error: the model is gone: the model's process was killed" in served.text()


def is_server(path, folder):
    """Whether a process is the server of a project, and no child of it."""
    try:
        words = (path.parent / "cmdline").read_bytes()
        return str(folder).encode() in words and b"runpy" in words and b"MARKED=1" in path.read_bytes()
    except OSError:
        return False


@each_python
def test_a_failed_setup_is_told_and_the_server_stays(serve, python):
    served = serve(python, "badsetup")
    assert ask(f"{served.url()}/health-check")[1]["status"] == "SETUP_FAILED"
    assert "warning: Model setup failed" in served.text()
    assert served.end(signal.SIGTERM) == -signal.SIGTERM


def test_a_taken_port_is_said_before_an_environment_is_made(tmp_path):
    shutil.copytree(ROOT / "tests" / "models" / "echo", tmp_path / "echo")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        served = Served(PROGRAM, tmp_path / "echo", "--engine", "none", "-p", str(port))
        assert served.process.wait(30) == 2
    assert f"error: port {port} is taken at 127.0.0.1" in served.text() and "Preparing" not in served.text()
    assert not (tmp_path / "echo" / ".cog").exists()


@needs_old
def test_an_interruption_while_its_setup_hangs(serve):
    served = serve(OLD, "badsetup", "-e", "BADSETUP=hang")
    served.wait_for("loading the weights|started setup")
    assert served.end() == -signal.SIGINT
    assert list_processes("BADSETUP=hang") == []
