"""The helper as a child process, before a scripted model: tunnel, readiness, lane, spool and leash, at every size."""
from __future__ import annotations

import hashlib
import io
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from helperchild import (
    Client,
    Far,
    MemorySink,
    Model,
    ask,
    find_pythons,
    free_port,
    http_reply,
    make_lane,
    read_body,
    sized_source,
    watch_health,
)

import cogpredict as c

ROOT = str(Path(__file__).resolve().parents[2])


@pytest.fixture
def model() -> Iterator[Model]:
    model = Model()
    yield model
    model.close()


@pytest.fixture
def start(model: Model) -> Iterator[Callable[..., Far]]:
    """Starts helpers before the model, each with a lane; they must end without a word on stderr."""
    started: list[Far] = []

    def start(*, clean: bool = True, python: str = sys.executable, source: str | None = None, **settings: Any) -> Far:
        lane, uploads, hooks = make_lane(free_port())
        far = Far({"port": model.port, "lane": lane.port, **settings}, lane=lane, python=python, source=source)
        far.uploads, far.hooks, far.clean = uploads, hooks, clean  # type: ignore[attr-defined]
        started.append(far)
        return far

    yield start
    for far in started:
        said = far.close()
        assert not said or not far.clean, said  # type: ignore[attr-defined]


def echo(connection: socket.socket, request: tuple[str, dict[str, str], bytes]) -> None:
    """Answers with the request's body, as it comes."""
    _, headers, begun = request
    connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {headers['content-length']}\r\n\r\n".encode())
    for piece in read_body(connection, headers, begun):
        connection.sendall(piece)


SIZES = [(1, 1, 9, 1), (7, 3, 10, 40), (100, 1000, 64, 10), (4096, 65536, 4096, 1 << 19), (1 << 20, 1 << 16, 1 << 18, 1)
         ]  # window, piece, read, queue


@pytest.mark.parametrize("sizes", SIZES)
def test_bytes_cross_whole_at_every_size(
        model: Model, start: Callable[..., Far], monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, ...]) -> None:
    window, piece, read, full = sizes
    monkeypatch.setattr(c, "PIECE", piece)
    monkeypatch.setattr(c, "READ_SIZE", read)
    monkeypatch.setattr(c, "LINK_QUEUE", max(2, full))
    model.answer = echo
    far = start(source=sized_source(PIECE=piece, READ=read, FULL=full), window=window)
    far.wait_ready()
    count = 300 if window < 100 else 300 * window if window < 1000 else 300_000
    data = random.Random(window).randbytes(count)
    url = far.lane.add_file(lambda: io.BytesIO(data), "in", count)
    head = f"HTTP/1.1\r\nContent-Length: {count}\r\n\r\n".encode()
    assert url == far.lane.url("in/0/in")
    clients = [Client(far.lane.port, b"GET /secret/in/0/in HTTP/1.1\r\n\r\n"),
               Client(far.lane.port, b"PUT /secret/up/a " + head, data),
               Client(far.lane.port, b"PUT /secret/up/b " + head, data)]
    answers = [far.link.open("POST", "/", body=data) for _ in range(2)]
    assert [answer.read() for answer in answers] == [data, data]
    far.wait(lambda: all(client.reply is not None for client in clients) and not far.lane.open_uploads, 20)
    assert (clients[0].reply or b"").endswith(b"\r\n\r\n" + data)
    assert [bytes(sink.data) == data and sink.state for *_, sink in far.uploads.values()] == ["closed", "closed"]


@pytest.mark.parametrize("python", find_pythons())
def test_the_helper_works_on_python(model: Model, start: Callable[..., Far], python: str) -> None:
    model.answer = echo
    far = start(python=python, spool=0)
    far.wait_ready()
    assert ask(far.link, "POST", "/", body=b"abc" * 100_000, timeout=20).read() == b"abc" * 100_000
    client = Client(far.lane.port, b"PUT /secret/up/a HTTP/1.1\r\nContent-Length: 5000000\r\n\r\n", bytes(5_000_000))
    far.wait(lambda: client.reply is not None and not far.lane.open_uploads)
    assert bytes(far.uploads[0][3].data) == bytes(5_000_000)
    assert far.link.digest(__file__) == hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


FLOOD = """
import socket, sys, threading, time
sys.path[:0] = {path!r}
import cogpredict as c
from helperchild import Far, free_port
class Null:
    size = 0
    def write(self, data): self.size += len(data)
    def close(self): pass
    abort = close
sinks = []
def on_upload(*_): sinks.append(Null()); return sinks[-1]
lane = c.Lane("t", free_port(), on_upload=on_upload, on_webhook=print, json_reader=list)
far = Far({{"lane": lane.port}}, lane=lane)
far.wait(lambda: far.link.hello)
def peak():
    with open("/proc/self/status") as file:
        return int(next(line for line in file if line.startswith("VmHWM")).split()[1]) >> 10
before = peak()
size = 200_000_000
url = lane.add_file(lambda: open("/dev/zero", "rb", buffering=0), "z", size)
done = []
def get():
    with socket.create_connection(("127.0.0.1", lane.port)) as s:
        s.sendall(b"GET /t/in/0/z HTTP/1.1\\r\\n\\r\\n")
        done.append(sum(map(len, iter(lambda: s.recv(1 << 18), b""))) - size)
def put():
    with socket.create_connection(("127.0.0.1", lane.port)) as s:
        s.sendall(b"PUT /t/up/z HTTP/1.1\\r\\nContent-Length: %d\\r\\n\\r\\n" % size)
        for _ in range(size // 100_000):
            s.sendall(bytes(100_000))
        done.append(s.recv(1000)[9:12])
for target in (get, put):
    threading.Thread(target=target).start()
far.wait(lambda: len(done) == 2 and not lane.open_uploads, 100)
assert sinks[0].size == size and b"200" in done, (sinks[0].size, done)
print(peak() - before, far.peak())
far.close()
"""


def test_hundreds_of_megabytes_both_ways_at_once_in_flat_memory() -> None:
    code = FLOOD.format(path=[ROOT, ROOT + "/tests"])
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    near, far = map(int, run.stdout.split())
    assert near < 14 and far < 32, (near, far)


class Dribble:
    """A stream that takes and gives one byte at a time."""

    def __init__(self, stream: c.Stream) -> None:
        self._stream = stream
        self.fileno, self.close, self.pending = stream.fileno, stream.close, stream.pending
        self.write_fileno = stream.write_fileno  # type: ignore[attr-defined]

    def recv(self, limit: int, /) -> bytes:
        return self._stream.recv(1)

    def send(self, data: memoryview, /) -> int:
        return self._stream.send(data[:1])


def test_one_byte_at_a_time(model: Model, start: Callable[..., Far], monkeypatch: pytest.MonkeyPatch) -> None:
    make = c.PipeStream
    monkeypatch.setattr(c, "PipeStream", lambda *fds: Dribble(make(*fds)))
    model.answer = echo
    far = start()
    far.wait_ready()
    assert ask(far.link, "POST", "/", body=b"abc" * 100, timeout=20).read() == b"abc" * 100
    client = Client(far.lane.port, *(bytes((b,)) for b in b"PUT /secret/up/a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"))
    far.wait(lambda: client.reply is not None)
    assert bytes(far.uploads[0][3].data) == b"abc"


# Readiness


def test_only_changes_of_health_are_told(model: Model, start: Callable[..., Far]) -> None:
    model.health = http_reply(b'{"status": "STARTING"}', "503 Later")
    far = start(poll=0.002)
    told = watch_health(far.link)
    far.wait(lambda: model.health_asked > 10)
    model.health = http_reply(b'{"status": "READY", "setup": {"logs": "x"}}')
    far.wait(lambda: len(told) > 1)
    assert told == [("STARTING", {"status": "STARTING"}), ("READY", {"status": "READY", "setup": {"logs": "x"}})]


def test_a_ready_model_is_left_alone_until_asked_for(model: Model, start: Callable[..., Far]) -> None:
    far = start()
    far.wait_ready()
    told, asked = watch_health(far.link), model.health_asked
    began = time.monotonic()
    far.loop.run(lambda: False, began + 0.3)
    assert not told and model.health_asked - asked <= time.monotonic() - began + 1  # one a second
    far.link.control({"fresh": True})
    far.wait(lambda: len(told) == 1)
    far.link.control({"poll": 0.01})
    asked = model.health_asked
    far.wait(lambda: model.health_asked > asked + 20, 10)
    assert len(told) == 1


def test_a_long_log_of_setup_is_cut_to_its_end(model: Model, start: Callable[..., Far]) -> None:
    body = {"status": "SETUP_FAILED", "setup": {"logs": "x" * 1_000_000 + "the end", "status": "failed"}}
    model.health = http_reply(json.dumps(body).encode())
    far = start()
    far.wait(lambda: far.link.health == "SETUP_FAILED")
    setup = (far.link.health_body or {})["setup"]
    assert setup["logs"].endswith("the end") and len(setup["logs"]) < 40_000 and setup["status"] == "failed"


@pytest.mark.parametrize("reply", [
    b"HTTP/1.1 200 OK\r\n\r\nhello", b"HTTP/1.1 404 No\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\n\r\n[1]"])
def test_a_health_check_that_is_not_one(model: Model, start: Callable[..., Far], reply: bytes) -> None:
    model.health = reply
    far = start()
    told = watch_health(far.link)
    far.wait(lambda: bool(told))
    assert far.link.health == "" and "text" in (far.link.health_body or {})


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 200 OK", bytes(9), b"HTTP/1.1 200 A\r\nContent-Length: 5\r\n\r\n{}"])
def test_a_health_check_that_breaks_off_is_asked_again(model: Model, start: Callable[..., Far], reply: bytes) -> None:
    model.health = reply
    far = start()
    far.wait(lambda: model.health_asked > 3)
    assert far.link.health == ""
    model.health = http_reply(b'{"status": "READY"}')
    far.wait_ready()


def test_a_model_that_goes_away_is_told(model: Model, start: Callable[..., Far]) -> None:
    far = start()
    far.wait_ready()
    far.link.control({"poll": 0.01})
    model.close()
    far.wait(lambda: far.link.health == "")


def test_a_health_check_that_blocks_stops_nothing(model: Model, start: Callable[..., Far]) -> None:
    free, handle = threading.Event(), model._handle

    def blocked(connection: socket.socket) -> None:
        connection.settimeout(5)
        if connection.recv(4, socket.MSG_PEEK) == b"GET ":
            free.wait(5)
        handle(connection)

    model._handle = blocked  # type: ignore[method-assign]
    far = start()
    assert ask(far.link, "POST", "/", timeout=3).read() == b"hello"
    assert far.link.health == ""
    free.set()
    far.wait_ready()


# The tunnel


def test_a_refused_connection(start: Callable[..., Far]) -> None:
    far = start(port=free_port())
    with pytest.raises(c.ModelGone, match="refused"):
        ask(far.link, "GET", "/", timeout=5)


@pytest.mark.parametrize(("reply", "error"), [
    (b"", "without an answer"), (b"HTTP/1.1 200 OK\r\nCon", "cut short"), (b"SSH-2.0 hello\r\n\r\n", "no HTTP"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "Content-Length")])
def test_an_answer_that_is_none(model: Model, start: Callable[..., Far], reply: bytes, error: str) -> None:
    model.answer = lambda connection, _: connection.sendall(reply)
    far = start()
    with pytest.raises(c.StreamError, match=error):
        ask(far.link, "POST", "/", timeout=5)


def test_an_answer_that_is_cut_in_its_body(model: Model, start: Callable[..., Far]) -> None:
    model.answer = lambda connection, _: connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
    far = start()
    answer = ask(far.link, "POST", "/", timeout=5)
    assert answer.read(2) == b"ab" and answer.read(2) == b"c"
    with pytest.raises(c.StreamError, match="cut short"):
        answer.read(2)


def test_an_answer_that_never_comes(model: Model, start: Callable[..., Far]) -> None:
    model.answer = lambda *_: time.sleep(3)
    far = start()
    with pytest.raises(c.ModelGone, match="0.1 seconds"):
        ask(far.link, "POST", "/", timeout=0.1)
    model.answer = lambda connection, _: connection.sendall(http_reply(b"later"))
    assert ask(far.link, "POST", "/", timeout=5).read() == b"later"


def test_what_a_request_carries(model: Model, start: Callable[..., Far]) -> None:
    seen: list[Any] = []

    def answer(connection: socket.socket, request: tuple[str, dict[str, str], bytes]) -> None:
        seen.append(request)
        connection.sendall(http_reply(b"", "201 Made", "X-Odd: a\r\n"))

    model.answer = answer
    far = start()
    reply = ask(far.link, "PUT", "/a?b", body=b"hey", headers={"X-A": "b"}, timeout=5)
    assert (reply.status, reply.headers["x-odd"], reply.read()) == (201, "a", b"")
    line, headers, body = seen[0]
    assert line == "PUT /a?b HTTP/1.1" and headers["x-a"] == "b" and headers["host"] == f"127.0.0.1:{model.port}"
    assert headers["content-length"] == "3" and body == b"hey"


def test_a_reader_that_stops_holds_nobody_up(model: Model, start: Callable[..., Far]) -> None:
    big = 30_000_000

    def answer(connection: socket.socket, request: tuple[str, dict[str, str], bytes]) -> None:
        connection.sendall(http_reply(bytes(big if "/big" in request[0] else 3)))

    model.answer = answer
    far = start()
    slow = ask(far.link, "GET", "/big", timeout=10)
    for _ in range(3):
        assert ask(far.link, "GET", "/small", timeout=5).read() == bytes(3)
    assert far.peak() < 40
    assert sum(map(len, slow)) == big


# The lane


def test_an_answer_is_held_back_until_the_upload_is_there(start: Callable[..., Far]) -> None:
    far = start()
    far.wait(lambda: far.link.hello)
    client = Client(far.lane.port, b"PUT /secret/up/a HTTP/1.1\r\nContent-Length: 6\r\n\r\nabc")
    far.wait(lambda: 0 in far.uploads and bytes(far.uploads[0][3].data) == b"abc")
    far.loop.run(lambda: client.reply is not None, time.monotonic() + 0.3)
    assert client.reply is None and bytes(far.uploads[0][3].data) == b"abc" and far.lane.open_uploads == 1
    client.socket.sendall(b"def")
    far.wait(lambda: client.reply is not None)
    assert (client.reply or b"").startswith(b"HTTP/1.1 200 OK\r\n") and b"/secret/out/0/a\r\n" in (client.reply or b"")
    assert far.lane.open_uploads == 0


class SlowSink(MemorySink):
    """Keeps the near end from reading for a while with each piece."""

    def write(self, data: bytes) -> None:
        time.sleep(len(data) / 10e6)
        super().write(data)


def spooled(pid: int) -> int:
    """Bytes in unlinked files of a process."""
    total = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            if "(deleted)" in os.readlink(f"/proc/{pid}/fd/{name}"):
                total += os.stat(f"/proc/{pid}/fd/{name}").st_size
        except OSError:
            pass
    return total


def test_an_upload_that_the_stream_is_too_slow_for_goes_to_a_file(start: Callable[..., Far]) -> None:
    far = start(spool=0.1)
    sinks: list[MemorySink] = []
    far.lane.on_upload = lambda *_: sinks.append(SlowSink()) or sinks[-1]
    far.wait(lambda: far.link.hello)
    data = random.Random(5).randbytes(20_000_000)
    began, most = time.monotonic(), 0
    clients = [Client(far.lane.port, b"PUT /secret/up/a HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(data), data)
               for _ in range(2)]

    def is_answered() -> bool:
        nonlocal most
        most = max(most, spooled(far.child.pid))
        return all(client.reply for client in clients)

    far.wait(is_answered, 20)
    answered = time.monotonic() - began
    far.wait(lambda: not far.lane.open_uploads, 20)
    assert [bytes(sink.data) == data for sink in sinks] == [True, True]
    assert answered < 0.7 * (time.monotonic() - began) and most > 10_000_000
    assert far.peak() < 40


def test_without_room_for_a_spool_file_uploads_wait(start: Callable[..., Far], monkeypatch: pytest.MonkeyPatch) -> None:
    source = "import tempfile\ndef broken(**_): raise OSError(28, 'full')\ntempfile.TemporaryFile = broken\n"
    future, rest = c.helper_source().split("\n", 1)
    far = start(spool=0, source=f"{future}\n{source}{rest}")
    sinks: list[MemorySink] = []
    far.lane.on_upload = lambda *_: sinks.append(SlowSink()) or sinks[-1]
    far.wait(lambda: far.link.hello)
    data = random.Random(6).randbytes(10_000_000)
    client = Client(far.lane.port, b"PUT /secret/up/a HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(data), data)
    far.wait(lambda: client.reply is not None and not far.lane.open_uploads, 20)
    assert bytes(sinks[0].data) == data and b"200 OK" in (client.reply or b"")


def test_a_spool_file_that_fills_the_disk_loses_nothing() -> None:
    class Small(io.BytesIO):
        def write(self, data: Any, /) -> int:
            if self.tell() + len(data) > 1000:
                data = data[:1000 - self.tell()]
                if not data:
                    raise OSError(28, "full")
            return super().write(data)

    channel = c.HelperChannel(2, socket.socket(), 300, True, 0.0)
    channel.spool = Small()
    data = random.Random(7).randbytes(3000)
    channel.store(data[:600])
    channel.store(data[600:])
    assert channel.full and channel.waiting()
    found = b""
    while channel.waiting():
        found += channel.fetch()
    assert found == data and not channel.full and channel.spool.getbuffer().nbytes == 0
    channel.close()


def test_two_uploads_at_once_of_one_name(start: Callable[..., Far]) -> None:
    far = start()
    far.wait(lambda: far.link.hello)
    head = b"PUT /secret/up/same.png HTTP/1.1\r\nContent-Type: image/png\r\nContent-Length: 500000\r\n\r\n"
    clients = [Client(far.lane.port, head, bytes((number,)) * 500_000) for number in range(2)]
    far.wait(lambda: all(client.reply for client in clients))
    sent = sorted(bytes(sink.data)[:1] for *_, sink in far.uploads.values())
    assert sent == [b"\0", b"\1"] and all(len(set(sink.data)) == 1 for *_, sink in far.uploads.values())
    places = {(client.reply or b"").partition(b"Location: ")[2].partition(b"\r\n")[0].decode() for client in clients}
    assert places == {far.lane.url(f"out/{number}/same.png") for number in range(2)}


REFUSED = [b"GET /wrong/in/0/a", b"GET /secret/in/1/a", b"GET /secret/in/x/a", b"GET /", b"DELETE /secret/in/0/a",
           b"GET /secret/up/a", b"GET /secret/hook", b"PUT /secretx/up/a", b"POST /secret/", b"GET http://x/secret/in/0/a"]


@pytest.mark.parametrize("request_line", REFUSED)
def test_what_the_lane_does_not_know(start: Callable[..., Far], request_line: bytes) -> None:
    far = start()
    far.lane.add_file(lambda: io.BytesIO(b"a"), "a", 1)
    far.wait(lambda: far.link.hello)
    client = Client(far.lane.port, request_line + b" HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc")
    far.wait(lambda: client.reply is not None)
    assert (client.reply or b"").startswith(b"HTTP/1.1 404 ") and not far.uploads and not far.hooks


PUT = b"PUT /secret/up/a%20b/..%2Fc%3F.txt?x=1 HTTP/1.1\r\n"
TAKEN = [
    (PUT + b"\r\n", b"", "c?.txt", None),
    (PUT + b"Content-Length: 0\r\n\r\n", b"", "c?.txt", 0),
    (PUT + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", b"abc", "c?.txt", None),
    (PUT + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc", b"abc", "c?.txt", 3),
]


@pytest.mark.parametrize(("request_bytes", "data", "name", "length"), TAKEN)
def test_uploads_in_other_forms(
        start: Callable[..., Far], request_bytes: bytes, data: bytes, name: str, length: int | None) -> None:
    far = start()
    far.wait(lambda: far.link.hello)
    client = Client(far.lane.port, request_bytes)
    far.wait(lambda: client.reply is not None)
    assert b"HTTP/1.1 200 OK\r\n" in (client.reply or b"")
    assert (far.uploads[0][0], far.uploads[0][2], bytes(far.uploads[0][3].data), far.uploads[0][3].state) == (
        name, length, data, "closed")


def test_a_client_that_expects_to_be_asked_for_its_body(start: Callable[..., Far]) -> None:
    far = start()
    far.wait(lambda: far.link.hello)
    with socket.create_connection(("127.0.0.1", far.lane.port)) as client:
        client.sendall(b"PUT /secret/up/a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        client.settimeout(5)
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"


def test_an_upload_that_its_client_gives_up(start: Callable[..., Far]) -> None:
    far = start()
    far.wait(lambda: far.link.hello)
    for number, how in enumerate((socket.SHUT_WR, None)):
        client = socket.create_connection(("127.0.0.1", far.lane.port))
        client.sendall(b"PUT /secret/up/a HTTP/1.1\r\nContent-Length: 6\r\n\r\nabc")
        far.wait(lambda number=number: number in far.uploads and bool(far.uploads[number][3].data))
        if how is None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()
        else:
            client.shutdown(how)
        far.wait(lambda number=number: far.uploads[number][3].state == "aborted")
        client.close()
    assert far.lane.open_uploads == 0


def test_webhooks_and_one_that_is_none(start: Callable[..., Far]) -> None:
    far = start()
    far.wait(lambda: far.link.hello)
    body = json.dumps({"output": "x" * 3_000_000}).encode()
    client = Client(far.lane.port, b"POST /secret/hook HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body), body)
    far.wait(lambda: client.reply is not None and bool(far.hooks))
    assert len(far.hooks[0]["output"]) == 3_000_000
    head = b"POST /secret/hook HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    client = Client(far.lane.port, head + b"1\r\n{\r\n0\r\n\r\n")
    far.wait(lambda: client.reply is not None)
    assert (client.reply or b"").startswith(b"HTTP/1.1 400 ") and len(far.hooks) == 1


def test_a_sink_that_fails_is_told_once_and_stops_nothing(start: Callable[..., Far]) -> None:
    class Full(MemorySink):
        def write(self, data: bytes) -> None:
            raise OSError(28, "No space left on device")

    far = start()
    sinks: list[MemorySink] = []
    far.lane.on_upload = lambda *_: sinks.append(Full() if not sinks else MemorySink()) or sinks[-1]
    far.wait(lambda: far.link.hello)
    head = b"PUT /secret/up/a HTTP/1.1\r\nContent-Length: 3000000\r\n\r\n"
    first = Client(far.lane.port, head, bytes(3_000_000))
    with pytest.raises(c.OutputError, match="No space left"):
        far.loop.run(lambda: False, time.monotonic() + 5)
    assert sinks[0].state == "aborted"
    second = Client(far.lane.port, head, bytes(3_000_000))
    far.wait(lambda: first.reply is not None and second.reply is not None and not far.lane.open_uploads)
    assert sinks[1].state == "closed" and len(sinks[1].data) == 3_000_000


@pytest.mark.parametrize("size", [3, 10])
def test_an_input_that_goes_away_or_shrinks(start: Callable[..., Far], tmp_path: Path, size: int) -> None:
    far = start()
    path = tmp_path / "input"
    if size == 10:
        path.write_bytes(b"abc")
    far.lane.add_file(lambda: path.open("rb"), "input", size)
    far.wait(lambda: far.link.hello)
    client = Client(far.lane.port, b"GET /secret/in/0/input HTTP/1.1\r\n\r\n")
    with pytest.raises(c.InputError, match="shorter" if size == 10 else "No such file"):
        far.loop.run(lambda: False, time.monotonic() + 5)
    far.wait(lambda: client.reply is not None)
    assert len((client.reply or b"").partition(b"\r\n\r\n")[2]) < size


def test_an_input_is_closed_when_its_reader_goes(start: Callable[..., Far]) -> None:
    far = start()
    file = tempfile.TemporaryFile()  # noqa: SIM115
    file.truncate(100_000_000)
    far.lane.add_file(lambda: file, "big", 100_000_000)
    far.wait(lambda: far.link.hello)
    with socket.create_connection(("127.0.0.1", far.lane.port)) as client:
        client.sendall(b"GET /secret/in/0/big HTTP/1.1\r\n\r\n")
        far.loop.run(lambda: False, time.monotonic() + 0.1)
    far.wait(lambda: file.closed)


def test_an_input_of_unknown_size(start: Callable[..., Far]) -> None:
    far = start()
    far.lane.add_file(lambda: io.BytesIO(b"abc"), "x", None)
    far.wait(lambda: far.link.hello)
    for method, body in ((b"GET", b"abc"), (b"HEAD", b"")):
        client = Client(far.lane.port, method + b" /secret/in/0/x HTTP/1.1\r\n\r\n")
        far.wait(lambda client=client: client.reply is not None)
        head, _, got = (client.reply or b"").partition(b"\r\n\r\n")
        assert got == body and b"Content-Length" not in head


def test_more_connections_than_the_lane_has_room_for(start: Callable[..., Far]) -> None:
    far = start()
    far.lane.add_file(lambda: io.BytesIO(b"abc"), "x", 3)
    far.wait(lambda: far.link.hello)
    idle = [socket.create_connection(("127.0.0.1", far.lane.port)) for _ in range(c.HelperChannels.MOST)]
    client = Client(far.lane.port, b"GET /secret/in/0/x HTTP/1.1\r\n\r\n")
    far.loop.run(lambda: client.reply is not None, time.monotonic() + 0.2)
    assert client.reply is None
    idle.pop().close()
    far.wait(lambda: client.reply is not None)
    assert (client.reply or b"").endswith(b"abc")
    for connection in idle:
        connection.close()


def test_a_lane_port_that_is_taken(start: Callable[..., Far]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        far = start(lane=taken.getsockname()[1])
        far.wait(lambda: far.link.hello)
        assert far.link.hello["lane"] == 0 and "in use" in far.link.hello["error"]
        far.wait_ready()


# The leash


def is_alive(pid: int) -> bool:
    state = c.helper_stat(pid)
    return state is not None and state[0] != "Z"


def wait_dead(*pids: int) -> None:
    deadline = time.monotonic() + 20
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline, "something survived the leash"
        time.sleep(0.01)


STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGHUP, signal.SIG_IGN)
child = os.fork()
if child:
    print("pids", os.getpid(), child, flush=True)
while True:
    time.sleep(0.01)
"""


def read_pids(far: Far) -> list[int]:
    assert far.child.stderr
    return [int(pid) for pid in far.child.stderr.readline().split()[1:]]


@pytest.mark.parametrize("how", ["close", "kill", "term"])
def test_the_leash_ends_a_spawned_group(start: Callable[..., Far], how: str, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    far = start(leash="spawned", spawn={"argv": [sys.executable, "-c", STUBBORN]}, scratch=[str(scratch)])
    far.wait(lambda: far.link.hello)
    pids = read_pids(far)
    assert scratch.stat().st_mode & 0o777 == 0o700
    (scratch / "file").write_text("left")
    assert far.link.hello["spawned"] == pids[0] and all(map(is_alive, pids))
    if how == "close":
        far.link.close()
    elif how == "kill":
        far.link.control({"kill": True})
        far.wait(lambda: far.link.ended)
    else:
        far.child.send_signal(signal.SIGTERM)
        far.wait(lambda: far.link.ended)
    wait_dead(*pids)
    far.child.wait(5)
    assert not scratch.exists()


def test_the_leash_ends_a_named_group(start: Callable[..., Far]) -> None:
    with subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, start_new_session=True) as group:
        assert group.stdout
        pids = [int(pid) for pid in group.stdout.readline().split()[1:]]
        far = start(leash=f"group:{group.pid}")
        far.wait(lambda: far.link.hello)
        far.link.close()
        wait_dead(*pids)


NEAR = """
import sys
sys.path[:0] = {path!r}
from helperchild import Far
far = Far({{"port": 1, "leash": "spawned", "spawn": {{"argv": [sys.executable, "-c", {stubborn!r}]}}}})
far.wait(lambda: far.link.hello)
print(far.child.pid, *far.child.stderr.readline().decode().split()[1:], flush=True)
far.loop.run(lambda: False)
"""


def test_the_leash_holds_when_the_near_end_is_killed() -> None:
    code = NEAR.format(path=[ROOT, ROOT + "/tests"], stubborn=STUBBORN)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as near:
        assert near.stdout
        pids = [int(pid) for pid in near.stdout.readline().split()]
        assert len(pids) == 3 and all(map(is_alive, pids))
        near.kill()
        wait_dead(*pids)


def test_a_helper_that_is_no_guest_of_a_container_kills_nothing_there(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, _: killed.append(pid))
    monkeypatch.setattr(c, "helper_stat", {10: ("S", 9), 9: ("S", 1)}.get)
    monkeypatch.setattr(os, "getppid", lambda: 10)
    c.helper_kill("container", None, 0.1)
    assert not c.helper_is_guest() and not killed


def test_what_a_helper_may_not_wake_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(pid: int, number: int) -> None:
        asked.append((pid, number))
        raise PermissionError

    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.setattr(os, "listdir", lambda _: ["1", "7", "8", "9", "self"])
    monkeypatch.setattr(c, "helper_stat", {1: ("S", 0), 7: ("T", 1), 8: ("T", 7), 9: ("T", 1)}.get)
    c.helper_wake()
    assert asked == [(7, signal.SIGCONT), (9, signal.SIGCONT)]


def test_what_a_spawned_program_says_and_its_end(start: Callable[..., Far]) -> None:
    far = start(clean=False, spawn={"argv": [sys.executable, "-c", "import os; print(os.environ['A']); exit(3)"],
                                    "env": {"A": "said"}})
    far.wait(lambda: far.link.exited is not None)
    assert far.link.exited == 3 and far.child.stderr and far.child.stderr.readline() == b"said\n"


def test_a_program_that_cannot_be_spawned(start: Callable[..., Far]) -> None:
    far = start(spawn={"argv": ["/no/such/program"]})
    far.wait(lambda: far.link.hello)
    assert far.link.hello["spawned"] == 0 and "No such file" in far.link.hello["error"]


# A peer that goes away at any byte


def record_session() -> bytes:
    """What a near end sends in a short session on one channel, with a file through the lane."""
    settings = json.dumps({"port": 1, "window": 1000, "leash": ""}).encode()
    frames = [(c.LINK_CONTROL, 0, settings), (c.LINK_OPEN, 1, b""), (c.LINK_DATA, 1, b"GET / HTTP/1.1\r\n\r\n"),
              (c.LINK_CREDIT, 1, bytes(4)), (c.LINK_CONTROL, 0, b'{"mark": "m"}'), (c.LINK_EOF, 1, b""),
              (c.LINK_RESET, 1, b""), (c.LINK_DATA, 7, b"late"), (c.LINK_EOF, 9, b"")]
    return b"".join(c.link_frame(*frame) for frame in frames)


SESSION = record_session()


@pytest.mark.parametrize("size", range(len(SESSION) + 1))
def test_the_helper_ends_wherever_the_near_end_leaves(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c.Helper, "write_marks", lambda self, now: self.marks.clear())
    (far_in, near_out), (near_in, far_out) = os.pipe(), os.pipe()
    os.write(near_out, SESSION[:size])
    os.close(near_out)
    thread = threading.Thread(target=c.Helper(far_in, far_out).run, daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
    for descriptor in (far_in, near_in, far_out):
        os.close(descriptor)


def ignores(pid: str, number: int) -> bool:
    """Whether a process ignores a signal."""
    ignored = re.search(r"SigIgn:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return bool(int(ignored[1], 16) >> number - 1 & 1)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="nothing tells who belongs to whom")
def test_what_has_left_the_group_ends_too(start: Callable[..., Far], tmp_path: Path) -> None:
    scratch = os.fsdecode(bytes(tmp_path) + b"/scratch\xff")
    program = ("import subprocess;"
               "print('pids', subprocess.Popen(['sleep', '60'], start_new_session=True).pid, flush=True)")
    far = start(leash="spawned", scratch=[scratch],
                spawn={"argv": [sys.executable, "-c", program], "env": {**os.environ, "TMPDIR": scratch}})
    far.wait(lambda: far.link.exited is not None)
    pid, = read_pids(far)
    assert is_alive(pid)
    far.link.close()
    wait_dead(pid)
    far.child.wait(5)
    assert not os.path.exists(scratch)


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="semaphores are no files here")
def test_a_killed_group_leaves_no_semaphore():
    program = ("import multiprocessing, time; from multiprocessing import resource_tracker as module;"
               "lock = multiprocessing.get_context('spawn').Lock();"
               "print(lock._semlock.name, module._resource_tracker._pid, flush=True); time.sleep(100)")
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, start_new_session=True)
    name, tracker = child.stdout.readline().decode().split()
    path = f"/dev/shm/sem.{name[1:]}"
    assert os.path.exists(path)
    deadline = time.monotonic() + 30
    while not ignores(tracker, signal.SIGTERM):  # from then on the tracker is at its work
        assert time.monotonic() < deadline
        time.sleep(0.01)
    c.helper_kill(f"group:{child.pid}", None)
    assert child.wait(5) == -signal.SIGKILL and not os.path.exists(path)
    child.stdout.close()
