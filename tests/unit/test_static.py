"""ruff and mypy --strict find nothing, and the repository holds what it should and names nothing outside it."""
from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOP = {"cogpredict.py", "build_zipapp.py", "tests", "README.md", "LICENSE"}


def run_tool(*words: str) -> str:
    """What a tool beside this Python says against the repository; empty when nothing."""
    tool = Path(sys.executable).parent / words[0]
    command = str(tool) if tool.exists() else shutil.which(words[0])
    assert command, f"{words[0]} is not installed; run: python3 tests"
    run = subprocess.run([command, *words[1:]], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return "" if run.returncode == 0 else run.stdout + run.stderr


@pytest.fixture
def tracked(git: str) -> list[str]:
    """Paths of the repository's files, as git has them."""
    run = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if run.returncode:
        pytest.skip("not a git checkout")
    return [path for path in run.stdout.split("\0") if path]


def test_ruff_is_content() -> None:
    assert run_tool("ruff", "check", "--quiet", ".") == ""


def test_mypy_is_content() -> None:
    assert run_tool("mypy", "cogpredict.py", "build_zipapp.py") == ""


def test_the_top_level_is_small(tracked: list[str]) -> None:
    top = {path.split("/")[0] for path in tracked}
    assert {name for name in top if not name.startswith(".")} <= TOP


def test_nothing_names_a_place_outside(tracked: list[str]) -> None:
    folders = ["/work/" + name for name in ("shared", "tmp", "wt", "main")] + [".." + "/shared"]
    words = [*folders, "pypi." + "org", "files." + "pythonhosted"]
    faults = []
    for path in tracked:
        text = (ROOT / path).read_bytes() if (ROOT / path).is_file() else b""
        faults += [f"{path}: {word}" for word in words if word.encode() in text]
    assert faults == []
