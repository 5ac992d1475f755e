"""Runs of `cog.pyz serve`, and requests to the models behind them."""
from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Callable

import pytest

import cogpredict

READY = re.compile(r"^Serving at (http://localhost:\d+)$", re.M)


def ask(url: str, body: object = None, method: str | None = None, **headers: str) -> tuple[int, Any]:
    """Status and document of a request to a model."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read() or b"null")


def ask_last(url: str, body: object) -> None:
    """Send a request after which the server goes away, maybe before it has answered in full."""
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        ask(url, body)


class Served:
    """A run of the program that serves; what it prints goes to files."""

    def __init__(self, command: list[str], folder: Path, *words: str, stdout: int | None = None,
                 **environ: str) -> None:
        self.out, self.err = folder / "serve.out", folder / "serve.err"
        with open(self.out, "wb") as out, open(self.err, "wb") as err:
            self.process = subprocess.Popen([*command, "serve", *words], stdout=stdout or out, stderr=err, cwd=folder,
                                            env={**os.environ, **environ})

    def text(self) -> str:
        """What it said on stderr."""
        return self.err.read_text()

    def printed(self) -> str:
        """All that it and the model printed."""
        return self.out.read_text() + self.text()

    def wait_for(self, pattern: str | re.Pattern[str], seconds: float = 200) -> re.Match[str]:
        """The match of a pattern in what was said, as soon as it is there."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.text())):
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.01)
        return found

    def url(self) -> str:
        """Where it serves, as soon as it does."""
        return self.wait_for(READY)[1]

    def end(self, number: int = signal.SIGINT, seconds: float = 25) -> int:
        """How it ends after a signal."""
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def kill(self) -> None:
        """End it for certain, unless it has ended."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def wait_until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Return as soon as the condition holds; fail when it has not for so long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_open(port: int) -> bool:
    """Whether somebody listens on a port of 127.0.0.1."""
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


def find_port() -> int:
    """A port of 127.0.0.1 that is free now, and that no connection gets for its own end."""
    return cogpredict.pick_free_ports(int.from_bytes(os.urandom(2), "big")).model


def has_ipv6() -> bool:
    """Whether this machine can listen on ::1."""
    try:
        with socket.socket(socket.AF_INET6) as trial:
            trial.bind(("::1", 0))
        return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on this machine")
