"""Projects whose models run in processes, and what tells whether anything of theirs still runs."""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parent
OWN = f"{sys.version_info[0]}.{sys.version_info[1]}"
OLD = "3.9"  # whose newest runtime is of the kind before 0.17


def has_python(version: str) -> bool:
    """Whether the test's own look at this machine finds a Python."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    return version == OWN or any(pyenv.glob(f"versions/{version}.*/bin/python"))


needs_old = pytest.mark.skipif(not has_python(OLD), reason=f"no Python {OLD}")
each_python = pytest.mark.parametrize("python", [OWN, pytest.param(OLD, marks=needs_old)])


def list_processes(word: str) -> list[str]:
    """The command lines of this machine's processes that hold a word, this one's left out."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except (OSError, ValueError):
            continue
        if word in line and folder.name != str(os.getpid()):
            found.append(line)
    return found


def is_quiet(word: str, seconds: float = 10.0) -> bool:
    """Whether nothing runs any more, after so many seconds at most, whose command line holds a word."""
    deadline = time.monotonic() + seconds
    while list_processes(word):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


class Project:
    """A folder with one of the test models, and predictions on it. The config is rewritten, the environment stays."""

    def __init__(self, folder: Path, python: str) -> None:
        self.folder, self.python = folder, python
        folder.mkdir(parents=True)

    def use(self, model: str, file: str = "cog.yaml", more: str = "", top: str = "") -> Project:
        """Make it the project of this model. `more` are lines of `build`, `top` lines beside it."""
        shutil.copy(TESTS / "models" / model / "predict.py", self.folder / "predict.py")
        text = f'build:\n  python_version: "{self.python}"\n{more}predict: "predict.py:Predictor"\n{top}'
        (self.folder / file).write_text(text)
        return self

    def start(self, text: str, *flags: str, file: str = "cog.yaml", cwd: Path | None = None,
              **environ: str) -> subprocess.Popen[str]:
        """Begin a prediction."""
        script = TESTS / "process" / "run_model.py"
        return subprocess.Popen([sys.executable, str(script), str(self.folder), file, text, *flags],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd or self.folder,
                                env={**os.environ, **environ})

    def predict(self, text: str, **how: Any) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a prediction."""
        process = self.start(text, **how)
        out, err = process.communicate(timeout=200)
        return process.returncode, out, err
