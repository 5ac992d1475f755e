"""A scripted engine: it answers what the test says, byte for byte, and a wrong, extra or missing call fails the test.

    with FakeEngine([Step("GET /v1.41/info", reply("200 OK", b"{}"))]) as fake:
        with fake.engine() as engine:
            assert engine.info() == {}

Steps are taken in order, over as many connections as the client likes. A reply is exact bytes, sent whole, in pieces
or one at a time, and cut where the test cut it; after a `talk` step the stream belongs to the test.
"""
from __future__ import annotations

import os
import socket
import ssl
import tempfile
import threading
import time
from typing import BinaryIO, Callable, NamedTuple

import cogpredict


class Step(NamedTuple):
    """Expect `request` (method and path, without the query) and answer it with `reply`."""

    request: str
    reply: bytes
    pieces: int = 1  # how many sends the reply is cut into; 0: one for each byte
    early: bool = False  # answer before the body was read, and close
    close: bool = False  # close after the reply
    talk: Callable[[socket.socket], None] | None = None  # goes on with the stream after the reply


class Seen(NamedTuple):
    """One request as it came."""

    request: str
    query: str
    headers: dict[str, str]
    body: bytes


def reply(status: str, body: bytes = b"", kind: str = "application/json", *headers: str) -> bytes:
    """A whole response, its length announced."""
    head = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """A 200 whose body comes in these chunks."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + end


def upgraded(rest: bytes = b"") -> bytes:
    """The answer that turns a connection into a stream, and the bytes that come with it."""
    return b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n" \
           b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n" + rest


def ping_reply(version: str = "1.41", *headers: str) -> bytes:
    """What /_ping says."""
    return reply("200 OK", b"OK", "text/plain", f"Api-Version: {version}", *headers)


def read_body(file: BinaryIO, headers: dict[str, str]) -> bytes:
    """The body that follows a request's head."""
    if headers.get("transfer-encoding") != "chunked":
        return file.read(int(headers.get("content-length", 0)))
    body = b""
    while True:
        size = int(file.readline() or b"0", 16)
        body += file.read(size)
        file.readline()
        if not size:
            return body


class FakeEngine:
    """The engine, on a unix socket, or on a TLS port of 127.0.0.1 with `tls`."""

    def __init__(self, steps: list[Step], tls: ssl.SSLContext | None = None) -> None:
        self.steps, self.seen, self.failures = list(steps), list[Seen](), list[str]()
        self._tls, self._lock, self._threads = tls, threading.Lock(), list[threading.Thread]()
        self._folder = tempfile.TemporaryDirectory()  # short: a socket's path holds 107 bytes
        self.path = os.path.join(self._folder.name, "e.sock")
        self._listener = socket.create_server(("127.0.0.1", 0)) if tls else socket.socket(socket.AF_UNIX)
        self._open: list[socket.socket] = []
        self._closing = False

    @property
    def address(self) -> cogpredict.Address:
        """Where it listens."""
        if self._tls:
            return cogpredict.Address("tls", "127.0.0.1", self._listener.getsockname()[1])
        return cogpredict.Address("unix", path=self.path)

    def engine(self, version: str = "1.41", console: cogpredict.Console | None = None) -> cogpredict.Engine:
        """An Engine that talks to it, the version agreed on already."""
        engine = cogpredict.Engine(self.address, console or cogpredict.Console({}), os.environ)
        engine.api_version = version
        return engine

    def __enter__(self) -> FakeEngine:
        if not self._tls:
            self._listener.bind(self.path)
            self._listener.listen()
        self._start(self._accept)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        deadline = time.monotonic() + (5 if kind is None else 0)
        while self.steps and not self.failures and time.monotonic() < deadline:
            time.sleep(0.005)
        self._closing = True
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()
        for connection in self._open:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self._threads:
            thread.join(5)
        self._folder.cleanup()
        if kind is None:
            assert not self.failures, self.failures
            assert not self.steps, f"these calls did not come: {[step.request for step in self.steps]}"

    def _start(self, job: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=job, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                if not self._tls:
                    return self._answer_all(connection)
                with self._tls.wrap_socket(connection, server_side=True) as inside:
                    return self._answer_all(inside)
        except (OSError, ValueError) as error:
            if not self._closing and not isinstance(error, (ConnectionError, ssl.SSLError)):
                self.failures.append(repr(error))

    def _answer_all(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as file:
            while self._answer(connection, file):
                pass

    def _answer(self, connection: socket.socket, file: BinaryIO) -> bool:
        line = file.readline().decode()
        if not line:
            return False
        method, target, _ = line.split()
        path, _, query = target.partition("?")
        headers = {}
        while True:
            name, _, value = file.readline().decode().strip().partition(":")
            if not name:
                break
            headers[name.lower()] = value.strip()
        with self._lock:
            step = self.steps[0] if self.steps else None
            if step is None or step.request != f"{method} {path}":
                self.failures.append(f"expected {step.request if step else 'no call'}, got {method} {path}")
                return False
            body = b"" if step.early else read_body(file, headers)
            self.seen.append(Seen(step.request, query, headers, body))
            self.steps.pop(0)
        self._send(connection, step)
        if step.talk:
            step.talk(connection)
        return not (step.early or step.close or step.talk)

    @staticmethod
    def _send(connection: socket.socket, step: Step) -> None:
        size = 1 if step.pieces == 0 else max(1, -(-len(step.reply) // step.pieces))
        try:
            for at in range(0, len(step.reply), size):
                connection.sendall(step.reply[at:at + size])
        except (BrokenPipeError, ConnectionResetError):
            pass
