"""Predictions as a user runs them: the program as a process, images of real runtimes, a look at what is left behind."""
from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
MARK = f"cog-test-{os.getpid()}-{time.time_ns()}"  # in the environment of every process that a test starts
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


@pytest.fixture
def model(tmp_path: Path, command: list[str],
          remove_images: Callable[[list[Path]], None]) -> Iterator[Callable[[str], Any]]:
    """A function that copies a model of tests/models into a folder and returns a function to run the program there."""
    projects: list[Path] = []

    def copy(name: str) -> Callable[..., tuple[int, str, str]]:
        project = tmp_path / name
        shutil.copytree(ROOT / "tests" / "models" / name, project)
        projects.append(project)

        def run(*arguments: str, stdin: bytes = b"", **environ: str) -> tuple[int, str, str]:
            done = subprocess.run([*command, *arguments], input=stdin, capture_output=True, timeout=500, cwd=project,
                                  env={**os.environ, **environ})
            return done.returncode, done.stdout.decode(), done.stderr.decode()

        run.project, run.command = project, command  # type: ignore[attr-defined]
        run.also = projects.append  # type: ignore[attr-defined]
        return run

    yield copy
    remove_images(projects)


@pytest.fixture
def unseen(tmp_path: Path, command: list[str],
           remove_images: Callable[[list[Path]], None]) -> Iterator[Callable[..., Run]]:
    """A function that runs the program in a copy of a project that the engine does not see."""
    hidden = tmp_path / "elsewhere"
    hidden.mkdir()

    def run(project: Path, *arguments: str) -> Run:
        script = f'mount -t tmpfs none {hidden} && cp -P {project}/*.* {hidden} && cd {hidden} && exec "$@"'
        done = subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", *command, *arguments], capture_output=True,
                              stdin=subprocess.DEVNULL, timeout=200)
        return Run(done.returncode, done.stdout.decode(), done.stderr.decode())

    yield run
    remove_images([hidden])


@pytest.fixture(scope="session")
def remove_images(engine_address: str) -> Callable[[list[Path]], None]:
    """A function that removes what was built for development in some folders."""
    os.environ.setdefault("DOCKER_HOST", engine_address)

    def remove(projects: list[Path]) -> None:
        engine = make_image.Engine()
        for project in projects:
            filters = json.dumps({"label": [f"cog.pyz.project={project}"]})
            for image in engine.call("GET", "/images/json", {"filters": filters}):
                engine.remove_image(image["Id"])

    return remove


def try_beside(engine_address: str, host: dict[str, Any], *command: str) -> bool:
    """Whether a command succeeds in a container that shares something with the engine's machine."""
    body = {"Image": "python:3.11-slim", "Labels": {"cog.test": "beside"}, "HostConfig": host,
            "Cmd": ["sh", "-c", '"$@" && echo 1', "sh", *command]}
    try:
        return b"1" in str(make_image.Engine(engine_address).run(body)).encode()
    except make_image.EngineFailed:
        return False


@pytest.fixture(scope="session")
def same_files(engine_address: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skips what is about files that the engine sees too."""
    folder = tmp_path_factory.mktemp("seen")
    mounts = [{"Type": "bind", "Source": str(folder), "Target": "/seen"}]
    if not try_beside(engine_address, {"Mounts": mounts}, "test", "-d", "/seen"):
        pytest.skip(f"the engine does not see {folder}; ENGINE_SEES in tests/engines/engine")


@pytest.fixture(scope="session")
def same_network(engine_address: str) -> None:
    """Skips what is about ports of the engine's machine."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        dial = f"import socket; socket.create_connection({server.getsockname()})"
        if not try_beside(engine_address, {"NetworkMode": "host"}, "python", "-c", dial):
            pytest.skip("the engine is in another network; `nsenter --net=/run/netns/NAME` in front of the tests")


def list_containers() -> list[dict[str, Any]]:
    """Every container of the program's, running or not; Podman cannot list while one is half removed."""
    filters = json.dumps({"label": ["cog.pyz.run"]})
    deadline = time.monotonic() + 20
    while True:
        try:
            found = make_image.Engine().call("GET", "/containers/json", {"all": 1, "filters": filters})
            assert isinstance(found, list)
            return found
        except make_image.EngineFailed as failure:
            if "container not known" not in str(failure) or time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def is_anothers(container: dict[str, Any]) -> bool:
    """Whether a container is for a process that runs without our mark in its environment."""
    client = container["Labels"].get("cog.pyz.client", "").split()
    if client[1:2] != [os.readlink("/proc/self/ns/pid")]:
        return bool(client)
    try:
        environ = Path(f"/proc/{client[2]}/environ").read_bytes()
    except OSError:
        return False
    return bool(environ) and MARK.encode() not in environ  # a dead one that nobody has waited for has none


@pytest.fixture(autouse=True)
def nothing_left(engine_address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """After every test no container of the test's is left, as soon as the engine has come to it. Others' are not
    touched."""
    monkeypatch.setenv("COG_TEST_SESSION", MARK)
    before = {container["Id"] for container in list_containers()}
    yield
    deadline = time.monotonic() + 30
    while left := [each for each in list_containers() if each["Id"] not in before and not is_anothers(each)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    for container in left:
        make_image.Engine().call("DELETE", f"/containers/{container['Id']}", {"force": 1})
    assert not left, f"left behind: {[container['Names'] for container in left]}"
