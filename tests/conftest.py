"""The seal around every test: no test sees the user's home, engine settings, time zone or terminal.

`COG_TEST_ENGINE` (else DOCKER_HOST, else the usual socket) is the engine for tests/engine. Where none answers those
tests are skipped with the reason, or fail when `COG_TEST_NEED_ENGINE=1` or `--need-engine` says that one must be there.

What is tried at random is the same in every run, however long it takes; `--hypothesis-profile=default` tries others.
"""
from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import Iterator

import hypothesis
import pytest

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
sys.path[:0] = [str(ROOT), str(TESTS)]

ENGINE_ADDRESS = os.environ.get("COG_TEST_ENGINE") or os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
NEED_ENGINE = os.environ.get("COG_TEST_NEED_ENGINE", "") not in ("", "0")
SEALED_PREFIXES = (
    "DOCKER_", "COG_", "XDG_", "BUILDKIT_", "BUILDX_", "CONTAINER_", "REPLICATE_", "R8_", "LC_", "PYTHON",
)
SEALED_NAMES = {
    "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "COLUMNS", "LINES", "TERM", "CI", "LANG", "LANGUAGE",
    "PORT", "REGISTRY_AUTH_FILE", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SOURCE_DATE_EPOCH", "EDITOR",
}
_homes = itertools.count()
hypothesis.settings.register_profile("steady", deadline=None, derandomize=True, database=None,
                                     suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("steady")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--need-engine", action="store_true", help="a missing engine is a failure, not a skip")
    parser.addoption("--update-golden", action="store_true", help="write the recorded results of tests/golden anew")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if TESTS / "engine" in item.path.parents:
            item.add_marker(pytest.mark.engine)


@pytest.fixture(scope="session")
def sealed_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds one empty home for each test."""
    return tmp_path_factory.mktemp("homes")


@pytest.fixture(autouse=True)
def seal(sealed_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home, English plain output, UTC, umask 022, the repository's root as the folder; undone afterwards."""
    home = sealed_home / str(next(_homes))
    home.mkdir()
    for name in list(os.environ):
        if name.upper().startswith(SEALED_PREFIXES) or name.upper() in SEALED_NAMES:
            monkeypatch.delenv(name)
    for name, value in {"HOME": str(home), "TZ": "UTC", "LANG": "C.UTF-8", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)
    umask = os.umask(0o022)
    monkeypatch.chdir(ROOT)
    yield home
    os.umask(umask)


def why_no_engine(address: str) -> str:
    """Why the engine at this address (unix://PATH or tcp://HOST:PORT) does not answer; empty when it does."""
    kind, _, place = address.partition("://")
    try:
        if kind == "unix":
            connection = http.client.HTTPConnection("engine", timeout=10)
            connection.sock = socket.socket(socket.AF_UNIX)
        else:
            connection = http.client.HTTPConnection(place, timeout=10)
        with contextlib.closing(connection):
            if kind == "unix":
                connection.sock.settimeout(10)
                connection.sock.connect(place)
            connection.request("GET", "/_ping")
            status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"no engine answers at {address}: {error}"
    return "" if status == 200 else f"the engine at {address} answers {status} to /_ping"


@pytest.fixture(scope="session")
def engine_address(request: pytest.FixtureRequest) -> str:
    """The address of an engine that answers; without one the test is skipped, or fails where one is demanded."""
    reason = why_no_engine(ENGINE_ADDRESS)
    if reason and (NEED_ENGINE or request.config.getoption("--need-engine")):
        pytest.fail(reason, pytrace=False)
    if reason:
        pytest.skip(reason)
    return ENGINE_ADDRESS


@pytest.fixture(scope="session")
def git() -> str:
    """The path of git; without it the test is skipped."""
    found = shutil.which("git")
    if found is None:
        pytest.skip("no git on this machine")
    return found


@pytest.fixture(autouse=True)
def engine_for_engine_tests(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, seal: Path) -> None:
    """What is marked `engine` finds the engine as a user would, through DOCKER_HOST."""
    if request.node.get_closest_marker("engine"):
        monkeypatch.setenv("DOCKER_HOST", request.getfixturevalue("engine_address"))
