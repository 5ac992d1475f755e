"""The near end before a scripted far end: the loop, interruptions, a stream that is cut or wrong at any byte."""
from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from typing import Any, Callable, Iterator

import pytest
from helperchild import MemorySink, ask, make_lane

import cogpredict as c


class Socket:
    """One end of a socket pair as a Stream. `hidden` bytes are here without showing in a select."""

    def __init__(self, end: socket.socket, hidden: bytes = b"") -> None:
        end.setblocking(False)
        self._end, self._hidden = end, hidden
        self.fileno, self.send, self.close = end.fileno, end.send, end.close

    def pending(self) -> bool:
        return bool(self._hidden)

    def recv(self, limit: int, /) -> bytes:
        if self._hidden:
            data, self._hidden = self._hidden[:limit], self._hidden[limit:]
            return data
        return self._end.recv(limit)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    yield near, far
    near.close()
    far.close()


Pair = "tuple[socket.socket, socket.socket]"


def run(loop: c.Loop, until: Callable[[], bool], seconds: float = 5) -> bool:
    return loop.run(until, time.monotonic() + seconds)


def framed(kind: int, channel: int, payload: bytes = b"", stream: int = 1) -> bytes:
    """A link frame in an engine's attach frame."""
    data = c.link_frame(kind, channel, payload)
    return bytes((stream, 0, 0, 0)) + len(data).to_bytes(4, "big") + data


# The loop


def test_the_loop_ends_at_its_deadline_and_without_sources(pair: Pair) -> None:
    loop = c.Loop()
    assert not loop.run(lambda: False)
    began = time.monotonic()
    assert not run(loop, lambda: False, 0.05) and time.monotonic() - began > 0.04
    loop.add(Socket(pair[0]), len, lambda: None)
    began = time.monotonic()
    assert not run(loop, lambda: False, 0.05)
    assert time.monotonic() - began > 0.04
    assert loop.run(lambda: True)
    loop.close()


def test_bytes_that_select_cannot_see_are_read(pair: Pair) -> None:
    loop, seen = c.Loop(), bytearray()
    loop.add(Socket(pair[0], b"hidden"), seen.extend, lambda: None)
    assert run(loop, lambda: seen == b"hidden", 1)
    loop.close()


def test_a_passed_deadline_still_takes_what_is_there(pair: Pair) -> None:
    loop, seen = c.Loop(), bytearray()
    loop.add(Socket(pair[0]), seen.extend, lambda: None)
    pair[1].send(b"x")
    loop.run(lambda: bool(seen), time.monotonic() - 1)
    assert seen == b"x"
    loop.close()


def test_a_callback_may_add_and_remove(pair: Pair) -> None:
    loop, other = c.Loop(), socket.socketpair()
    seen: list[Any] = []

    def change(data: bytes) -> None:
        seen.append(data)
        loop.remove(first)
        loop.remove(first)
        loop.add(Socket(other[0]), seen.append, lambda: seen.append("end"))

    first = loop.add(Socket(pair[0]), change, lambda: seen.append("no"))
    pair[1].send(b"a")
    other[1].send(b"b")
    assert run(loop, lambda: seen == [b"a", b"b"])
    other[1].close()
    assert run(loop, lambda: seen == [b"a", b"b", "end"])
    assert not loop.run(lambda: False)


def test_the_end_is_told_once_however_it_comes(pair: Pair) -> None:
    ends: list[str] = []
    loop = c.Loop()
    source = loop.add(Socket(pair[0]), len, lambda: ends.append("end"))
    pair[1].close()
    source.send(bytes(1000))
    loop.run(lambda: False, time.monotonic() + 0.1)
    source.send(b"x")
    assert ends == ["end"] and source.queued == 0


def test_a_callback_may_not_run_the_loop(pair: Pair) -> None:
    loop = c.Loop()
    loop.add(Socket(pair[0]), lambda _: loop.run(lambda: True), lambda: None)  # type: ignore[arg-type, return-value]
    pair[1].send(b"x")
    with pytest.raises(RuntimeError):
        run(loop, lambda: False)
    loop.close()


def test_an_error_of_a_callback_comes_out_when_the_others_were_served(pair: Pair) -> None:
    loop, other = c.Loop(), socket.socketpair()
    seen = bytearray()

    def fail(_: bytes) -> None:
        raise c.OutputError("full")

    loop.add(Socket(pair[0]), fail, lambda: None)
    loop.add(Socket(other[0]), seen.extend, lambda: None)
    pair[1].send(b"x")
    other[1].send(b"y")
    with pytest.raises(c.OutputError, match="full"):
        run(loop, lambda: False)
    assert seen == b"y" or run(loop, lambda: seen == b"y")
    loop.close()
    other[1].close()


@pytest.mark.parametrize("busy", [False, True])
def test_an_interruption_breaks_nothing_off(pair: Pair, busy: bool) -> None:
    loop = c.Loop()
    seen = bytearray()

    def take(data: bytes) -> None:
        if busy:
            os.kill(os.getpid(), signal.SIGUSR1)
            for _ in range(1000):
                pass
        seen.extend(data)

    before = signal.signal(signal.SIGUSR1, lambda number, _: loop.interrupt(c.Interrupted(number)))
    try:
        loop.add(Socket(pair[0]), take, lambda: None)
        with pytest.raises(c.Interrupted):
            if busy:
                pair[1].send(b"x")
            else:
                threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
            run(loop, lambda: False, 20)
        assert seen == (b"x" if busy else b"")
        pair[1].send(b"y")
        if not busy:
            assert run(loop, lambda: seen == b"y")
    finally:
        signal.signal(signal.SIGUSR1, before)
        loop.close()


# The link


class Script:
    """A link, and its far end in the test's hand."""

    def __init__(self, *, is_framed: bool = False, lane: c.Lane | None = None, **settings: Any) -> None:
        near, self.far = socket.socketpair()
        self.loop = c.Loop()
        self.link = c.Link(self.loop, Socket(near), lane, {"port": 5, **settings}, framed=is_framed)
        self.parser = c.LinkParser()

    def sent(self, seconds: float = 0.05) -> list[tuple[int, int, bytes]]:
        """What the near end has sent since the last time."""
        self.loop.run(lambda: False, time.monotonic() + seconds)
        self.far.setblocking(False)
        found = []
        try:
            while True:
                found += self.parser.feed(self.far.recv(1 << 20))
        except BlockingIOError:
            return found

    def play(self, *frames: tuple[Any, ...]) -> None:
        self.far.sendall(b"".join(c.link_frame(*frame) for frame in frames))

    def close(self) -> None:
        self.loop.close()
        self.far.close()


@pytest.fixture
def make_script() -> Iterator[Callable[..., Script]]:
    scripts: list[Script] = []

    def make(**keywords: Any) -> Script:
        scripts.append(Script(**keywords))
        return scripts[-1]

    yield make
    for script in scripts:
        script.close()


def test_settings_come_first(make_script: Callable[..., Script]) -> None:
    [(kind, channel, payload)] = make_script(lane=None, window=99).sent()
    assert (kind, channel, json.loads(payload)) == (c.LINK_CONTROL, 0, {"port": 5, "window": 99})


def test_no_more_is_sent_than_the_credit_allows(make_script: Callable[..., Script]) -> None:
    script = make_script(window=100)
    script.sent()
    script.link.open("POST", "/", body=bytes(1000))

    def size(frames: list[tuple[int, int, bytes]]) -> int:
        return sum(len(payload) for kind, _, payload in frames if kind == c.LINK_DATA)

    frames = script.sent()
    assert frames[0] == (c.LINK_OPEN, 1, b"") and size(frames) == 100
    script.play((c.LINK_CREDIT, 1, (50).to_bytes(4, "big")))
    assert size(script.sent()) == 50


def test_credit_is_given_as_an_answer_is_read(make_script: Callable[..., Script]) -> None:
    script = make_script(window=100)
    answer = script.link.open("GET", "/")
    script.sent()
    script.play((c.LINK_DATA, 1, b"HTTP/1.1 200 OK\r\n\r\n" + bytes(80)))
    assert script.sent() == []
    answer.read(40)
    [(kind, channel, payload)] = script.sent()
    assert (kind, channel, payload) == (c.LINK_CREDIT, 1, (59).to_bytes(4, "big"))


def test_channels_take_turns(make_script: Callable[..., Script]) -> None:
    script = make_script(window=1 << 20)
    script.sent()
    for _ in range(2):
        script.link.open("POST", "/", body=bytes(900_000))
    order: list[int] = []
    while len(order) < 24:
        order += [channel for kind, channel, _ in script.sent(0.01) if kind == c.LINK_DATA]
    assert abs(order[10:20].count(1) - order[10:20].count(3)) <= 2  # the first had the queue for itself at first


SESSION = [
    (c.LINK_HELLO, 0, b'{"lane": 7}'),
    (c.LINK_EVENT, 0, b'{"health": "READY", "code": 200, "body": {"status": "READY"}}'),
    (c.LINK_OPEN, 2, b""), (c.LINK_DATA, 2, b"PUT /secret/up/a HTTP/1.1\r\nContent-Length: 5\r\n\r\nab"),
    (c.LINK_DATA, 1, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"), (c.LINK_CREDIT, 1, bytes(4)),
    (c.LINK_DATA, 99, b"unknown"), (c.LINK_RESET, 98, b"unknown"), (c.LINK_DATA, 2, b"cde"), (c.LINK_DATA, 1, b"cde"),
    (c.LINK_EOF, 2, b""),
]
PLAIN = b"".join(c.link_frame(*frame) for frame in SESSION)
FRAMED = b"".join(framed(*frame) for frame in SESSION)


@pytest.mark.parametrize("is_framed", [False, True])
def test_a_stream_that_is_cut_at_any_byte(make_script: Callable[..., Script], is_framed: bool) -> None:
    whole = FRAMED if is_framed else PLAIN
    for size in range(len(whole) + 1):
        lane, uploads, _ = make_lane(7)
        script = make_script(is_framed=is_framed, lane=lane)
        answer = script.link.open("GET", "/")
        script.far.sendall(whole[:size])
        script.far.shutdown(socket.SHUT_WR)
        assert run(script.loop, lambda script=script: script.link.ended)
        if size == len(whole):
            assert answer.read() == b"abcde"
        else:
            with pytest.raises(c.ModelGone):
                answer.wait()
                assert len(answer.read()) == 5
                raise c.ModelGone("it was complete")
        states = [sink.state for *_, sink in uploads.values()]
        assert states in ([], ["aborted"], ["closed"]) and (size < len(whole) or states == ["closed"])
        assert lane.open_uploads == 0
        with pytest.raises(c.ModelGone, match="way to the model was cut"):
            ask(script.link, "GET", "/")
        script.close()


def test_a_session_of_single_bytes(make_script: Callable[..., Script]) -> None:
    lane, uploads, _ = make_lane(7)
    script = make_script(is_framed=True, lane=lane)
    answer = script.link.open("GET", "/")
    for at in range(len(FRAMED)):
        script.far.sendall(FRAMED[at:at + 1])
        script.loop.run(lambda: False, time.monotonic())
    assert answer.read() == b"abcde" and bytes(uploads[0][3].data) == b"abcde"
    assert script.link.hello and script.link.health == "READY" and script.link.health_body == {"status": "READY"}


@pytest.mark.parametrize("noise", [
    b"Traceback (most recent call last):\n", c.link_frame(c.LINK_EVENT, 0, b"{"), b"\7" + bytes(4) + b"\xff" * 4,
    c.link_frame(c.LINK_HELLO, 0, b"\xff"), c.link_frame(c.LINK_EVENT, 0, b"[1]"),
    c.link_frame(c.LINK_EVENT, 0, b"[" * 100_000), c.link_frame(c.LINK_OPEN, 3), c.link_frame(c.LINK_OPEN, 2) * 2,
    b"".join(c.link_frame(c.LINK_OPEN, 2 * n) for n in range(1, 1100)), c.link_frame(c.LINK_DATA, 1, bytes(101))])
def test_a_far_end_that_talks_nonsense(make_script: Callable[..., Script], noise: bytes) -> None:
    script = make_script(lane=make_lane(7)[0], window=100)
    script.link.open("GET", "/")
    script.far.sendall(noise)
    with pytest.raises(c.StreamError):
        run(script.loop, lambda: False)


def test_the_helper_s_own_trouble_is_kept_and_told(make_script: Callable[..., Script]) -> None:
    script = make_script(is_framed=True)
    said = b"python: can't open it\n"
    script.far.sendall(bytes((2, 0, 0, 0)) + len(said).to_bytes(4, "big") + said)
    script.far.close()
    assert run(script.loop, lambda: script.link.ended)
    assert bytes(script.link.trouble) == said and script.link.end_reason.endswith("cut: python: can't open it")


def test_a_reset_tells_why(make_script: Callable[..., Script]) -> None:
    script = make_script()
    answer = script.link.open("GET", "/")
    script.play((c.LINK_RESET, 1, b"Connection refused"))
    with pytest.raises(c.ModelGone, match="Connection refused"):
        answer.wait()


def test_a_closed_answer_ends_its_channel(make_script: Callable[..., Script]) -> None:
    script = make_script()
    answer = script.link.open("GET", "/")
    script.sent()
    answer.close()
    answer.close()
    assert script.sent() == [(c.LINK_RESET, 1, b"")]


def test_marks_and_digests_are_answered_or_not(make_script: Callable[..., Script]) -> None:
    script = make_script()
    script.play((c.LINK_EVENT, 0, b'{"mark": "other", "fds": [1]}'), (c.LINK_EVENT, 0, b'{"mark": "m", "fds": [1, 2]}'),
                (c.LINK_EVENT, 0, b'{"digest": "/a", "sha256": "ff"}'))
    assert script.link.mark("m", time.monotonic() + 1) == 2
    assert script.link.digest("/a", time.monotonic() + 1) == "ff"
    assert script.link.mark("n", time.monotonic() + 0.05) == 0


@pytest.mark.parametrize("where", ["on_upload", "sink", "hook"])
def test_what_fails_in_a_lane_s_callback_comes_out_and_the_rest_goes_on(
        make_script: Callable[..., Script], where: str) -> None:
    lane, uploads, _ = make_lane(7)

    def fail(*_: Any) -> Any:
        raise c.OutputError("full")

    class Failing(MemorySink):
        close = fail

    if where == "on_upload":
        lane.on_upload = fail
    elif where == "sink":
        lane.on_upload = lambda *_: Failing()
    else:
        lane.on_webhook = fail
    script = make_script(lane=lane)
    request = b"POST /secret/hook HTTP/1.1\r\n" if where == "hook" else b"PUT /secret/up/a HTTP/1.1\r\n"
    script.play((c.LINK_OPEN, 2), (c.LINK_DATA, 2, request + b"Content-Length: 2\r\n\r\n{}"),
                (c.LINK_HELLO, 0, b'{"lane": 7}'))
    with pytest.raises(c.OutputError, match="full"):
        run(script.loop, lambda: False)
    assert script.link.hello and lane.open_uploads == 0 and not uploads
    sent = b"".join(payload for kind, channel, payload in script.sent() if (kind, channel) == (c.LINK_DATA, 2))
    assert sent.startswith(b"HTTP/1.1 500 " if where == "on_upload" else b"HTTP/1.1 200 ")


# The helper's source


def test_the_source_that_is_sent_is_the_helper_and_a_call() -> None:
    source = c.helper_source()
    assert source.startswith("from __future__ import annotations\n\n# == 16. Helper ") and "== 17" not in source
    assert source.endswith("\nhelper_main()\n") and len(source.encode()) < 100_000  # one argument holds 128 KiB
