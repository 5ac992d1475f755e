"""The parsers of the streams: the same values wherever the bytes are cut, and truncation always told."""
from __future__ import annotations

from typing import Any, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cogpredict as c


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The data in pieces, cut at these places; none of them empty."""
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in zip(ends, ends[1:])]


def feed_all(parser: Any, pieces: list[bytes]) -> list[Any]:
    return [event for piece in pieces for event in parser.feed(piece)]


def every_cut(data: bytes) -> list[list[bytes]]:
    """All ways to cut in two, and one byte at a time."""
    return [[data[:at], data[at:]] for at in range(len(data) + 1)] + [[bytes((b,)) for b in data]]


PLACES = st.lists(st.integers(0, 1 << 20), max_size=30)
FRAMES = st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=70)), max_size=12)


def frame(stream: int, payload: bytes) -> bytes:
    return bytes((stream, 0, 0, 0)) + len(payload).to_bytes(4, "big") + payload


def join(found: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Neighbours of one stream as one."""
    joined: list[tuple[int, bytes]] = []
    for stream, payload in found:
        if joined and joined[-1][0] == stream:
            joined[-1] = (stream, joined[-1][1] + payload)
        elif payload:
            joined.append((stream, payload))
    return joined


@given(FRAMES, PLACES)
def test_attach_frames_come_whole_wherever_they_are_cut(frames: list[tuple[int, bytes]], places: list[int]) -> None:
    parser = c.FrameParser()
    assert join(feed_all(parser, cut(b"".join(frame(*f) for f in frames), places))) == join(frames)
    parser.close()


def test_attach_frames_of_one_stream_come_joined() -> None:
    assert c.FrameParser().feed(frame(1, b"a") + frame(1, b"b") + frame(2, b"c")) == [(1, b"ab"), (2, b"c")]


def test_a_big_attach_frame_comes_in_parts() -> None:
    parser = c.FrameParser()
    assert parser.feed(frame(1, bytes(1 << 20))[:100]) == [(1, bytes(92))]
    assert parser.feed(bytes(50)) == [(1, bytes(50))]


@pytest.mark.parametrize("size", range(1, 11))
def test_a_cut_attach_stream_is_told(size: int) -> None:
    parser = c.FrameParser()
    parser.feed(frame(1, b"abc")[:size])
    with pytest.raises(c.StreamError, match="cut"):
        parser.close()


@pytest.mark.parametrize("data", [b"HTTP/1.1", b"\4" + bytes(7), b"\1\0\1\0" + bytes(4)])
def test_what_is_no_attach_stream_is_refused(data: bytes) -> None:
    with pytest.raises(c.StreamError, match="no frame header"):
        c.FrameParser().feed(data)


def test_the_engine_s_own_error_frame_is_raised() -> None:
    with pytest.raises(c.StreamError, match="disk on fire"):
        c.FrameParser().feed(frame(1, b"x") + frame(3, b"disk on fire"))


LINKS = st.lists(st.tuples(st.integers(1, 8), st.integers(0, 2**32 - 1), st.binary(max_size=50)), max_size=12)


@given(LINKS, PLACES)
def test_link_frames_come_whole_wherever_they_are_cut(frames: list[tuple[int, int, bytes]], places: list[int]) -> None:
    def merge(found: list[tuple[int, int, bytes]]) -> list[Any]:
        merged: list[Any] = []
        for kind, channel, payload in found:
            if kind == c.LINK_DATA and merged and merged[-1][:2] == [kind, channel]:
                merged[-1][2] += payload
            elif kind != c.LINK_DATA or payload:
                merged.append([kind, channel, payload])
        return merged

    parser = c.LinkParser()
    stream = b"".join(c.link_frame(*f) for f in frames)
    found = feed_all(parser, cut(stream, places))
    parser.close()
    assert merge(found) == merge(frames)


@given(LINKS, PLACES)
def test_both_ends_read_frames_alike(frames: list[tuple[int, int, bytes]], places: list[int]) -> None:
    far, near = c.HelperStream(0, 1), c.LinkParser()
    for kind, channel, payload in frames:
        far.send(kind, channel, payload)
    stream = b"".join(c.link_frame(*f) for f in frames)
    assert bytes(far.queue) == stream

    def told(found: list[tuple[int, int, Any]]) -> list[Any]:
        data = {n: b"".join(bytes(p) for k, m, p in found if (k, m) == (c.LINK_DATA, n)) for _, n, _ in found}
        return [data, [(k, n, bytes(p)) for k, n, p in found if k != c.LINK_DATA]]

    pieces = cut(stream, places)
    parsed = [f for piece in pieces for f in far.parse(memoryview(bytes(far.inbox) + piece))]
    assert told(parsed) == told(feed_all(near, pieces))


def test_the_helper_s_kinds_are_ours() -> None:
    names = ["HELLO", "OPEN", "DATA", "EOF", "RESET", "CREDIT", "EVENT", "CONTROL"]
    assert [getattr(c.HelperStream, name) for name in names] == [getattr(c, f"LINK_{name}") for name in names]
    assert c.HelperStream.HEADER == c.LINK_HEADER


@pytest.mark.parametrize("data", [bytes(9), b"\x09" + bytes(8), b"Traceback (mo", b"\7" + bytes(4) + b"\xff" * 4])
def test_what_is_no_link_stream_is_refused(data: bytes) -> None:
    with pytest.raises(c.StreamError, match="no frame header"):
        c.LinkParser().feed(data)


@pytest.mark.parametrize("size", range(1, 12))
def test_a_cut_link_stream_is_told(size: int) -> None:
    parser = c.LinkParser()
    parser.feed(c.link_frame(c.LINK_DATA, 1, b"abc")[:size])
    with pytest.raises(c.StreamError, match="cut"):
        parser.close()


REQUESTS = [
    (b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n", [(("GET", "/a", "HTTP/1.1"), {"host": "x"}, b"")]),
    (b"PUT /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nab\n",
     [(("PUT", "/a", "HTTP/1.1"), {"content-length": "3"}, b"ab\n")]),
    (b"PUT / HTTP/1.1\r\ncontent-length:0\r\n\r\n", [(("PUT", "/", "HTTP/1.1"), {"content-length": "0"}, b"")]),
    (b"\r\nGET / HTTP/1.0\n\n", [(("GET", "/", "HTTP/1.0"), {}, b"")]),
    (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\nA;x=y\r\n0123456789\r\n0\r\nT: 1\r\n\r\n",
     [(("POST", "/", "HTTP/1.1"), {"transfer-encoding": "chunked"}, b"ab0123456789")]),
    (b"POST / HTTP/1.1\r\nX: 1\r\nx: 2\r\nContent-Length: 1\r\n\r\naGET /b HTTP/1.1\r\n\r\n",
     [(("POST", "/", "HTTP/1.1"), {"x": "1, 2", "content-length": "1"}, b"a"), (("GET", "/b", "HTTP/1.1"), {}, b"")]),
]


def gather(events: list[Any]) -> list[Any]:
    """Messages as (start, headers, body); an End must follow each."""
    messages: list[Any] = []
    ended = True
    for event in events:
        if isinstance(event, c.Head):
            assert ended
            messages.append((event.start, event.headers, b""))
            ended = False
        elif isinstance(event, c.Body):
            assert not ended and event.data
            messages[-1] = (*messages[-1][:2], messages[-1][2] + event.data)
        else:
            assert not ended
            ended = True
    assert ended
    return messages


@pytest.mark.parametrize(("data", "messages"), REQUESTS)
def test_requests_at_every_cut(data: bytes, messages: list[Any]) -> None:
    for pieces in every_cut(data):
        parser = c.RequestParser()
        assert gather(feed_all(parser, pieces)) == messages
        assert parser.close() == []


@pytest.mark.parametrize(("data", "messages"), REQUESTS[1:2] + REQUESTS[4:5])
def test_a_cut_request_is_told(data: bytes, messages: list[Any]) -> None:
    for size in range(1, len(data)):
        parser = c.RequestParser()
        parser.feed(data[:size])
        with pytest.raises(c.StreamError, match="cut short"):
            parser.close()


PUT, CHUNKED = b"PUT / HTTP/1.1\r\n", b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
BAD_REQUESTS = [
    b"hello\r\n\r\n", b"GET / SPDY/3\r\n\r\n", PUT + b"no colon\r\n\r\n", PUT + b" a: folded\r\n\r\n",
    PUT + b"Content-Length: x\r\n\r\n", PUT + b"Content-Length: -1\r\n\r\n", PUT + b"Content-Length: \xb2\r\n\r\n",
    PUT + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", b"A" * 70000, PUT + b"A: " + b"x" * 70000,
    CHUNKED + b"x\r\n", CHUNKED + b"\r\n", CHUNKED + b"1\r\nabc\r\n", CHUNKED + b"-1\r\n",
]


@pytest.mark.parametrize("data", BAD_REQUESTS, ids=range(len(BAD_REQUESTS)))
def test_what_is_no_http_is_refused(data: bytes) -> None:
    for pieces in ([data], [data[at:at + 1] for at in range(len(data))]):
        with pytest.raises(c.StreamError):
            feed_all(c.RequestParser(), pieces)


REPLIES = [
    ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", False, b"hi", "200"),
    ("GET", b"HTTP/1.1 200\r\n\r\nto the end", True, b"to the end", "200"),
    ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", False, b"hi", "200"),
    ("POST", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Made\r\nContent-Length: 1\r\n\r\nx", False, b"x", "201"),
    ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n", False, b"", "200"),
    ("GET", b"HTTP/1.1 204 None\r\n\r\n", False, b"", "204"),
]


@pytest.mark.parametrize(("method", "data", "by_end", "body", "status"), REPLIES)
def test_replies_at_every_cut(method: str, data: bytes, by_end: bool, body: bytes, status: str) -> None:
    for pieces in every_cut(data):
        parser = c.ReplyParser(method)
        events = feed_all(parser, pieces)
        end = parser.close()
        assert bool(end) == by_end
        [message] = gather(events + end)
        assert (message[0][1], message[2]) == (status, body)


def test_a_body_is_handed_out_as_it_comes() -> None:
    parser = c.RequestParser()
    parser.feed(b"PUT / HTTP/1.1\r\nContent-Length: 1000000000000\r\n\r\n")
    piece = bytes(1 << 18)
    for _ in range(10):
        [event] = parser.feed(piece)
        assert event.data is piece


EVENTS: list[tuple[bytes, list[tuple[str, str]]]] = [
    (b"event: a\ndata: 1\n\ndata: 2\n\n", [("a", "1"), ("message", "2")]),
    (b"event:a\r\ndata:1\r\ndata: 2\r\n\r\n", [("a", "1\n2")]),
    (b"data: 1\r\rdata: 2\r\r", [("message", "1"), ("message", "2")]),
    (b"\xef\xbb\xbfdata: 1\n\n: comment\n\nevent: x\n\ndata\n\n", [("message", "1"), ("message", "")]),
    (b"data:  two\nid: 7\nretry: 5\nodd\n\n", [("message", " two")]),
    ("data: h\u00e9\u4e16\n\n".encode(), [("message", "h\u00e9\u4e16")]),
    (b"data: a\x0bb\x0cc\xc2\x85d\n\n", [("message", "a\x0bb\x0cc\x85d")]),
]


@pytest.mark.parametrize(("data", "events"), EVENTS)
def test_server_sent_events_at_every_cut(data: bytes, events: list[tuple[str, str]]) -> None:
    for pieces in every_cut(data):
        parser = c.EventParser()
        assert feed_all(parser, pieces) == events
        parser.close()


def test_a_cut_event_stream_is_told() -> None:
    for data in (b"data: 1\n", b"data: 1", b"da"):
        parser = c.EventParser()
        parser.feed(data)
        with pytest.raises(c.StreamError, match="cut"):
            parser.close()


@pytest.mark.parametrize("data", [b"data: " + b"x" * 60, b"data: xxxxxxxxx\n" * 20])
def test_an_event_has_its_limit(data: bytes) -> None:
    with pytest.raises(c.StreamError, match="more than 50 bytes"):
        c.EventParser(limit=50).feed(data)


@given(st.binary(max_size=300), PLACES, st.sampled_from([c.FrameParser, c.LinkParser, c.RequestParser, c.EventParser]))
def test_garbage_is_refused_or_taken_but_never_breaks_a_parser(
        data: bytes, places: list[int], make: Callable[[], Any]) -> None:
    parser = make()
    try:
        feed_all(parser, cut(data, places))
        parser.close()
    except c.StreamError:
        pass
