"""`predict --url` on what `serve` started in another process: real runtimes of three kinds."""
from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from functools import lru_cache
from pathlib import Path
from typing import Callable, Iterator

import pytest
from processproject import OWN, Project, is_quiet
from servedmodel import wait_until

ROOT = Path(__file__).resolve().parents[2]
RUNTIMES = ["0.9.26", "0.16.12", "0.23.1"]

pytestmark = [pytest.mark.index, pytest.mark.slow]


def begin(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """A command of cogpredict's."""
    return subprocess.Popen([sys.executable, "-c", "import cogpredict, sys; sys.exit(cogpredict.main())", *arguments],
                            cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Project]:
    """A function from a runtime's version to a project with it, one for all tests."""
    return lru_cache(None)(lambda runtime: Project(tmp_path_factory.mktemp("projects") / f"cog{runtime}", OWN))


@pytest.fixture
def serve(folders: Callable[[str], Project]) -> Iterator[Callable[..., str]]:
    """A function that serves a test model with a runtime until the test ends; its URL."""
    served: list[tuple[subprocess.Popen[str], Project]] = []

    def start(model: str, runtime: str, edit: Callable[[str], str] = str) -> str:
        project = folders(runtime).use(model, more=f'  sdk_version: "{runtime}"\n')
        source = project.folder / "predict.py"
        source.write_text(edit(source.read_text()))
        process = begin("serve", "--engine", "none", "-p", "0", cwd=project.folder)
        served.append((process, project))
        said = ""
        while process.stderr:
            line = process.stderr.readline()
            said += line
            assert line, said
            found = re.match(r"Serving at (\S+)", line)
            if found:
                return found[1]
        raise AssertionError

    yield start
    for process, project in served:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
        assert is_quiet(str(project.folder))


def predict(url: str, cwd: Path, *flags: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a prediction at a URL."""
    process = begin("predict", "--url", url, *flags, cwd=cwd)
    out, err = process.communicate(timeout=100)
    return process.returncode, out, err


def health(url: str) -> str:
    with urllib.request.urlopen(f"{url}/health-check", timeout=20) as answer:
        return str(json.load(answer)["status"])


@pytest.mark.parametrize("runtime", RUNTIMES[1:])
def test_files_in_and_out(serve, tmp_path, runtime):
    url = serve("files", runtime)
    content = os.urandom(20_000_000)
    (tmp_path / "in x.dat").write_bytes(content)
    code, out, err = predict(url, tmp_path, "-i", "file=@in x.dat", "-i", "answer=copy")
    assert (code, out) == (0, ""), err
    (written,) = set(os.listdir(tmp_path)) - {"in x.dat"}
    assert (tmp_path / written).read_bytes() == content
    code, out, err = predict(url, tmp_path, "--json", '{"count": 3, "size": 200000}', "-o", "many.json")
    assert code == 0, err
    found = json.loads((tmp_path / "many.json").read_text())
    assert [(tmp_path / name).stat().st_size for name in found["output"]] == [200_000] * 3


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_text_and_its_log(serve, tmp_path, runtime):
    url = serve("logs", runtime)
    code, out, err = predict(url, tmp_path, "-i", "lines=3", "-i", "delay=0.3")
    assert (code, out) == (0, "printed 3\n"), err
    assert re.findall(r"(?m)^(\d{8}) x+$", err) == ["00000000", "00000001", "00000002"]
    code, _, err = predict(url, tmp_path, "-i", "lines=x")
    assert code == 2 and 'invalid input "lines"' in err


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_ctrl_c_cancels_where_the_runtime_can(serve, tmp_path, runtime):
    url = serve("slow", runtime)
    process = begin("predict", "--url", url, "-i", "seconds=30" if runtime != "0.9.26" else "seconds=8", cwd=tmp_path)
    assert process.stderr is not None
    while "Running prediction" not in process.stderr.readline():
        pass
    if runtime != "0.9.26":  # which answers nothing while it predicts
        wait_until(lambda: health(url) == "BUSY")
    time.sleep(1)  # a runtime forgets a cancellation that comes too soon
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == -signal.SIGINT
    assert ("may go on with the prediction" in err) == (runtime == "0.9.26")
    wait_until(lambda: health(url) == "READY")


def test_a_killed_client_cancels_too(serve, tmp_path):
    url = serve("slow", "0.23.1")
    process = begin("predict", "--url", url, "-i", "seconds=30", cwd=tmp_path)
    wait_until(lambda: health(url) == "BUSY")
    time.sleep(1)
    process.kill()
    process.communicate()
    wait_until(lambda: health(url) == "READY", 15)


def offer_events(source: str) -> str:
    return "import cog\n" + source.replace("    def predict", "    @cog.streaming\n    def predict")


@pytest.mark.parametrize(("runtime", "edit"), [("0.9.26", str), ("0.16.12", str), ("0.23.1", str),
                                               ("0.23.1", offer_events)])
def test_a_text_as_it_comes(serve, tmp_path, runtime, edit):
    url = serve("stream", runtime, edit)
    process = begin("predict", "--url", url, "-i", "text=one two three", "-i", "delay=1.5", cwd=tmp_path)
    assert process.stdout is not None
    first = os.read(process.stdout.fileno(), 100)
    seen = time.monotonic()
    rest, err = process.communicate(timeout=20)
    assert (process.returncode, first.decode() + rest) == (0, "one two three\n"), err
    if runtime == "0.23.1":
        assert first == b"one" and time.monotonic() - seen > 1.5


def test_a_busy_model(serve, tmp_path):
    url = serve("slow", "0.23.1")
    first = begin("predict", "--url", url, "-i", "seconds=30", cwd=tmp_path)
    wait_until(lambda: health(url) == "BUSY")
    code, _, err = predict(url, tmp_path, "-i", "seconds=0")
    assert code == 1 and "is busy with another prediction" in err
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=20)


def test_too_much_for_the_server(serve, tmp_path):
    url = serve("files", "0.23.1")
    for size, wanted in ((78_642_000, 0), (78_644_000, 2)):
        with open(tmp_path / "big.bin", "wb") as file:
            file.truncate(size)
        code, _, err = predict(url, tmp_path, "-i", "file=@big.bin")
        assert code == wanted and ("at most 100 MiB" in err) == bool(wanted), err
    assert f"{size}" not in (tmp_path / "output.0.txt").read_text()
