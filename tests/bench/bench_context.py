"""The context of 20,000 files, piped to a socket: ours, `tar c` and tarfile, in turns. Run it by hand.

    python3 tests/bench/bench_context.py [ROUNDS]
"""
from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Callable

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import cogpredict  # noqa: E402

FOLDERS, FILES, SIZE = 200, 100, 2800
RULES = "\n".join(["# what projects ignore", ".git", "**/__pycache__", "*.pyc", "**/*.pyc", "node_modules", "**/.venv",
                   "*.md", "!README.md", "build/", "dist", "**/*.log", "checkpoints/**/old", "data/*.csv"])


def make_project(root: str) -> None:
    """Write 20,000 files of 2,800 bytes in 200 folders."""
    for folder in range(FOLDERS):
        place = os.path.join(root, f"package{folder // 10:02}", f"module_{folder % 10:02}")
        os.makedirs(place)
        for file in range(FILES):
            Path(place, f"some_file_name_{file:03}.txt").write_bytes(os.urandom(SIZE))


def measure(send: Callable[[socket.socket], object]) -> float:
    """Seconds until a process at the other end of a socket has read all."""
    here, there = socket.socketpair()
    child = os.fork()
    if not child:
        here.close()
        while there.recv(1 << 20):
            pass
        os._exit(0)
    there.close()
    begun = time.perf_counter()
    send(here)
    here.close()
    os.waitpid(child, 0)
    return time.perf_counter() - begun


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    with tempfile.TemporaryDirectory() as root:
        make_project(root)

        def ours(sink: socket.socket, text: str = "") -> None:
            for piece in cogpredict.read_context(root, cogpredict.parse_ignore(text)):
                sink.sendall(piece)

        def library(sink: socket.socket) -> None:
            with sink.makefile("wb") as file, tarfile.open(fileobj=file, mode="w|") as tar:
                tar.add(root, arcname=".")

        ways: dict[str, Callable[[socket.socket], object]] = {
            "tar c": lambda sink: subprocess.run(["tar", "c", "-C", root, "."], stdout=sink.fileno(), check=True),
            "ours": ours,
            "ours with rules": lambda sink: ours(sink, RULES),
            "tarfile": library,
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, send in ways.items():
                times[name].append(measure(send))
    base = statistics.median(times["tar c"])
    for name, found in times.items():
        middle = statistics.median(found)
        print(f"{name:16} {middle:6.3f} s  {middle / base:5.2f} x")


if __name__ == "__main__":
    main()
