"""Projects for the process host, on the Pythons of this machine."""
from __future__ import annotations

import os
import sys
from functools import lru_cache
from pathlib import Path
from typing import Callable, Iterator

import pytest
from processproject import Project, is_quiet

REAL_HOME = Path.home()


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the seal hides of this machine: its Pythons and what pip has downloaded before."""
    monkeypatch.setenv("PYENV_ROOT", os.environ.get("PYENV_ROOT") or str(REAL_HOME / ".pyenv"))
    monkeypatch.setenv("PIP_CACHE_DIR", os.environ.get("PIP_CACHE_DIR") or str(REAL_HOME / ".cache" / "pip"))


@pytest.fixture(scope="session")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Project]:
    """A function from a Python version to its project, one for all tests."""
    return lru_cache(None)(lambda python: Project(tmp_path_factory.mktemp("projects") / f"p{python}", python))


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Project]:
    """A project without an environment, of which nothing may run in the end."""
    project = Project(tmp_path / "fresh project", f"{sys.version_info[0]}.{sys.version_info[1]}")
    yield project
    assert is_quiet(str(project.folder))
