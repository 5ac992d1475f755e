"""The helper as a child process of a test, a scripted model behind it, and the near end in the test itself."""
from __future__ import annotations

import glob
import os
import re
import socket
import subprocess
import sys
import threading
import time
from typing import Any, Callable, Iterator

import cogpredict as c

Answerer = Callable[[socket.socket, "tuple[str, dict[str, str], bytes]"], None]
READY = b'{"status": "READY", "setup": {}}'


def free_port() -> int:
    """A port that nobody listens on just now, and that no connection gets for its own end."""
    return c.pick_free_ports(int.from_bytes(os.urandom(2), "big")).lane


def http_reply(body: bytes, status: str = "200 OK", extra: str = "") -> bytes:
    """A whole reply of a model's."""
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{extra}\r\n".encode() + body


def read_request(connection: socket.socket) -> tuple[str, dict[str, str], bytes]:
    """A request: its line, its headers, what has come of its body."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        if not part:
            return "", {}, b""
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return first, {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}, body


def read_body(connection: socket.socket, headers: dict[str, str], begun: bytes) -> Iterator[bytes]:
    """A body of declared length, piece by piece."""
    left = int(headers.get("content-length", "0")) - len(begun)
    if begun:
        yield begun
    while left > 0:
        part = connection.recv(min(left, 1 << 18))
        if not part:
            return
        left -= len(part)
        yield part


class Model:
    """A server on a port of its own: answers /health-check with `health`, all else by `answer(connection, request)`."""

    def __init__(self, answer: Answerer | None = None) -> None:
        self.health = http_reply(READY)
        self.health_asked = 0
        self.answer = answer or (lambda connection, request: connection.sendall(http_reply(b"hello")))
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.listener.listen(64)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._handle, args=(connection,), daemon=True).start()

    def _handle(self, connection: socket.socket) -> None:
        with connection:
            try:
                request = read_request(connection)
                if request[0].startswith("GET /health-check "):
                    self.health_asked += 1
                    connection.sendall(self.health)
                elif request[0]:
                    self.answer(connection, request)
            except OSError:
                pass

    def close(self) -> None:
        if self.listener.fileno() >= 0:
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class MemorySink:
    """An upload kept in memory."""

    def __init__(self) -> None:
        self.data, self.state = bytearray(), "open"

    def write(self, data: bytes) -> None:
        self.data += data

    def close(self) -> None:
        assert self.state == "open"
        self.state = "closed"

    def abort(self) -> None:
        assert self.state == "open"
        self.state = "aborted"


class MemoryReader:
    """A webhook's body kept in memory."""

    def __init__(self) -> None:
        self.data = bytearray()

    def feed(self, data: bytes) -> None:
        self.data += data

    def close(self) -> c.JSON:
        import json

        try:
            return dict(json.loads(self.data))
        except ValueError as error:
            raise c.StreamError("not JSON") from error


def make_lane(port: int, token: str = "secret") -> tuple[c.Lane, dict[int, Any], list[c.JSON]]:
    """A lane that keeps everything: its uploads by number as (name, type, length, sink), its webhooks."""
    uploads: dict[int, Any] = {}
    hooks: list[c.JSON] = []

    def on_upload(number: int, name: str, content_type: str, length: int | None) -> MemorySink:
        sink = MemorySink()
        uploads[number] = (name, content_type, length, sink)
        return sink

    lane = c.Lane(token, port, on_upload=on_upload, on_webhook=hooks.append, json_reader=MemoryReader)
    return lane, uploads, hooks


def ask(link: c.Link, method: str, path: str, *, timeout: float | None = None, **how: Any) -> c.Answer:
    """The model's answer, its head read, as a host asks for it."""
    answer = link.open(method, path, **how)
    answer.timeout = timeout
    answer.wait()
    return answer


def watch_health(link: c.Link) -> list[tuple[str, Any]]:
    """What a link is told of the model's health from now on, each time."""
    told: list[tuple[str, Any]] = []
    take = link._take_event

    def note(kind: int, payload: bytes) -> None:
        take(kind, payload)
        if b'"health"' in payload:
            told.append((link.health, link.health_body))

    link._take_event = note  # type: ignore[method-assign]
    return told


class Client:
    """A client of the lane's in a thread: sends these bytes, then collects what comes. `reply` is None until then."""

    def __init__(self, port: int, *pieces: bytes) -> None:
        self.reply: bytes | None = None
        self.sent = 0.0
        self.socket = socket.create_connection(("127.0.0.1", port))
        self._pieces = pieces
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with self.socket:
            try:
                for piece in self._pieces:
                    self.socket.sendall(piece)
                self.sent = time.monotonic()
                self.reply = b"".join(iter(lambda: self.socket.recv(1 << 18), b""))
            except OSError as error:
                self.reply = str(error).encode()


def find_pythons() -> list[str]:
    """This Python, and the old ones of this machine that the helper must run on."""
    home = os.path.expanduser("~root" if os.getuid() == 0 else "~")
    found = sorted(glob.glob(f"{home}/.pyenv/versions/3.*/bin/python3.*"))
    return [sys.executable, *(p for p in found if p.rpartition("python")[2] in ("3.7", "3.8", "3.9", "3.13", "3.14"))]


def sized_source(**sizes: int) -> str:
    """The helper with other constants."""
    source = c.helper_source()
    for name, size in sizes.items():
        source, count = re.subn(rf"^(    {name} = )[^#]*", rf"\g<1>{size}  ", source, flags=re.M)
        assert count == 1, name
    return source


class Far:
    """A helper that runs, and the loop, lane and link in front of it."""

    def __init__(self, settings: c.JSON, *, python: str = sys.executable, source: str | None = None,
                 lane: c.Lane | None = None) -> None:
        self.child = subprocess.Popen(
            [python, "-ISc", source or c.helper_source()], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE)
        assert self.child.stdin and self.child.stdout
        self.loop = c.Loop()
        pipes = c.PipeStream(os.dup(self.child.stdout.fileno()), os.dup(self.child.stdin.fileno()))
        self.child.stdin.close()
        self.child.stdout.close()
        self.lane = lane
        self.link = c.Link(self.loop, pipes, lane, {"leash": "", **settings}, framed=False)

    def wait(self, until: Callable[[], bool], seconds: float = 10) -> None:
        deadline = time.monotonic() + seconds
        while not self.loop.run(until, time.monotonic() + 0.02):  # what is waited for may happen outside of the loop
            assert time.monotonic() < deadline, (self.link.end_reason, self.link.hello)

    def wait_ready(self) -> None:
        self.wait(lambda: self.link.health == "READY" or self.link.ended)
        assert self.link.health == "READY", self.stderr()

    def peak(self) -> int:
        """The helper's peak resident memory in MiB."""
        with open(f"/proc/{self.child.pid}/status") as file:
            return int(next(line for line in file if line.startswith("VmHWM")).split()[1]) >> 10

    def stderr(self) -> str:
        self.child.kill()
        self.child.wait()
        assert self.child.stderr
        return self.child.stderr.read().decode()

    def close(self) -> str:
        """End it; what it wrote to its stderr."""
        self.link.close()
        self.loop.close()
        assert self.child.stderr
        try:
            self.child.wait(10)
        except subprocess.TimeoutExpired:
            self.child.kill()
            raise
        with self.child.stderr as stream:
            return stream.read().decode()
