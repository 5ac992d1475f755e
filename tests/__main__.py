"""`python3 tests [PYTEST ARGUMENTS]`: makes .venv with the pinned tools, once, and runs everything that can run here.

    python3 tests                       all of it; what needs an engine is skipped, with the reason, where none answers
    python3 tests --need-engine         a missing engine is a failure
    python3 tests tests/unit -k layout  a part of it

The tools come from the package index that pip is configured for.
"""
from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
REQUIREMENTS = ROOT / "tests" / "requirements.txt"
STAMP = VENV / "made-for"
OLDEST = (3, 10)  # what the pinned tools need; cog.pyz itself runs on older ones


def describe_wanted() -> str:
    """What an environment must have been made for to be used as it is."""
    return f"{sys.version} {sys.prefix} {VENV} {hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()}"


def make_environment() -> None:
    """Make .venv anew and install the tools; ends the run when that fails."""
    try:
        import ensurepip  # noqa: F401
        import venv
    except ImportError:
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        sys.exit(f"python3 tests: {sys.executable} cannot make environments; on Debian or Ubuntu:"
                 f" apt-get install python{version}-venv")
    print(f"python3 tests: making {VENV}", file=sys.stderr, flush=True)
    venv.EnvBuilder(clear=True, with_pip=True, symlinks=True).create(VENV)
    install = [str(VENV / "bin" / "python"), "-m", "pip", "install", "-q", "--no-input", "-r", str(REQUIREMENTS)]
    if subprocess.run(install, stdin=subprocess.DEVNULL).returncode:
        sys.exit("python3 tests: pip could not install the tools (above); they need a package index, once")
    STAMP.write_text(describe_wanted())


def main() -> None:
    if sys.version_info < OLDEST:
        sys.exit(f"python3 tests: the test tools need Python {OLDEST[0]}.{OLDEST[1]}, this is {sys.version.split()[0]};"
                 " run it with a newer one, e.g. python3.12 tests")
    if not STAMP.is_file() or STAMP.read_text() != describe_wanted():
        make_environment()
    os.chdir(ROOT)
    python = str(VENV / "bin" / "python")
    os.environ.pop("PYTHONPATH", None)
    for number in (signal.SIGINT, signal.SIGHUP):  # background jobs ignore them, and so would what tests start
        signal.signal(number, signal.SIG_DFL)
    os.execv(python, [python, "-X", "dev", "-m", "pytest", *sys.argv[1:]])


if __name__ == "__main__":
    main()
