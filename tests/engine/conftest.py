"""Predictions as a user runs them: the program as a process, images of real runtimes, a look at what is left behind."""
from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests" / "images"))
import make_image  # noqa: E402


class Run(NamedTuple):
    """How a run of the program ended."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def images(engine_address: str) -> Callable[[str, str], str]:
    """A function from a model of tests/models and a runtime's version to its image, made if need be."""
    os.environ.setdefault("DOCKER_HOST", engine_address)
    engine = make_image.Engine()
    made: dict[tuple[str, str], str] = {}

    def image(name: str, version: str) -> str:
        if (name, version) not in made:
            made[name, version] = make_image.make_image(engine, name, version)
        return made[name, version]

    return image


@pytest.fixture
def command() -> list[str]:
    """The program's first words."""
    return [sys.executable, str(ROOT / "cogpredict.py")]


@pytest.fixture
def cog(command: list[str], tmp_path: Path) -> Callable[..., Run]:
    """A function that runs the program in an empty folder and returns how it ended."""

    def run(*arguments: str, stdin: bytes = b"", timeout: float = 120, **environ: str) -> Run:
        done = subprocess.run([*command, *arguments], input=stdin, capture_output=True, timeout=timeout, cwd=tmp_path,
                              env={**os.environ, **environ})
        return Run(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


def list_containers() -> list[dict[str, Any]]:
    """Every container of the program's, running or not."""
    filters = json.dumps({"label": ["cog.pyz.run"]})
    found = make_image.Engine().call("GET", "/containers/json", {"all": 1, "filters": filters})
    assert isinstance(found, list)
    return found


@pytest.fixture(autouse=True)
def nothing_left(engine_address: str) -> Iterator[None]:
    """After every test no container that it started is left; two seconds are given."""
    before = {container["Id"] for container in list_containers()}
    yield
    deadline = time.monotonic() + 2
    while (left := [found for found in list_containers() if found["Id"] not in before]) and time.monotonic() < deadline:
        time.sleep(0.05)
    for container in left:
        make_image.Engine().call("DELETE", f"/containers/{container['Id']}", {"force": 1})
    assert not left, f"left behind: {[container['Names'] for container in left]}"
