#!/usr/bin/env python3
"""Kills the program every 50 ms of a run and counts what is left two seconds later; wanted: nothing.

    python3 tests/bench/kill.py IMAGE [ARGUMENT]... [--until SECONDS]

runs `cogpredict.py predict IMAGE ARGUMENT...` with an empty TMPDIR on the engine of DOCKER_HOST, else
/var/run/docker.sock; IMAGE may be cog-test/slow:0.23.1 (tests/images/make_image.py makes it) with -i seconds=60.
"""
from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from engines.api import Engine, EngineFailed  # noqa: E402


def is_left(mark: str) -> bool:
    """Whether a container has this in its environment."""
    engine = Engine()
    for found in engine.call("GET", "/containers/json", {"all": 1, "filters": '{"label":["cog.pyz.run"]}'}):
        try:
            if mark in engine.call("GET", f"/containers/{found['Id']}/json")["Config"]["Env"]:
                return True
        except EngineFailed:
            pass  # it is gone
    return False


def kill_at(moment: float, arguments: list[str]) -> list[str]:
    """What is left of a run that was killed after so many seconds."""
    with tempfile.TemporaryDirectory() as folder:
        mark = f"MARK={os.urandom(8).hex()}"
        child = subprocess.Popen(
            [sys.executable, str(ROOT / "cogpredict.py"), "predict", *arguments, "-e", mark], cwd=folder,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "TMPDIR": folder})
        time.sleep(moment)
        child.kill()
        child.wait()
        time.sleep(2)
        return [*(["a container"] if is_left(mark) else []), *os.listdir(folder)]


def main() -> None:
    arguments, until = sys.argv[1:], 3.0
    if "--until" in arguments:
        at = arguments.index("--until")
        until = float(arguments[at + 1])
        del arguments[at:at + 2]
    if not arguments:
        sys.exit(__doc__)
    moments = [0.05 * step for step in range(1, int(until / 0.05) + 1)]
    bad = 0
    for moment in moments:
        left = kill_at(moment, arguments)
        bad += bool(left)
        if left:
            print(f"{moment:.2f} s: {', '.join(left)}")
    print(f"{len(moments)} kills, {bad} left something; wanted: 0")


if __name__ == "__main__":
    main()
