"""The build session against another HTTP/2, another HPACK and every cut; and a build against a scripted engine."""
from __future__ import annotations

import contextlib
import io
import json
import os
import re
import socket
import tarfile
import threading
import time
from typing import Any, Callable, Iterator
from urllib.parse import parse_qs

import h2.config
import h2.connection
import h2.events
import hpack
import pytest
from fakeengine import FakeEngine, Step, chunked, reply
from hypothesis import given
from hypothesis import strategies as st

import cogpredict
from cogpredict import (
    CREDENTIALS,
    FRAME_LIMIT,
    GET_SECRET,
    HEALTH,
    REQUEST_LIMIT,
    TAR_END,
    BuildFailed,
    Console,
    HpackDecoder,
    Protobuf,
    Session,
    SessionPump,
    StreamError,
    build_from_files,
    build_image,
    render_field,
    render_headers,
    session_headers,
    session_methods,
    tar_file,
)

# RFC 7541, appendix C: what a connection sends in turn, and what each block means.
EXAMPLES = {
    "C.2.1": [("400a637573746f6d2d6b65790d637573746f6d2d686561646572", "custom-key: custom-header")],
    "C.2.2": [("040c2f73616d706c652f70617468", ":path: /sample/path")],
    "C.2.3": [("100870617373776f726406736563726574", "password: secret")],
    "C.2.4": [("82", ":method: GET")],
    "C.3": [
        ("828684410f7777772e6578616d706c652e636f6d", ":method: GET|:scheme: http|:path: /|:authority: www.example.com"),
        ("828684be58086e6f2d6361636865",
         ":method: GET|:scheme: http|:path: /|:authority: www.example.com|cache-control: no-cache"),
        ("828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
         ":method: GET|:scheme: https|:path: /index.html|:authority: www.example.com|custom-key: custom-value"),
    ],
    "C.4": [
        ("828684418cf1e3c2e5f23a6ba0ab90f4ff", ":method: GET|:scheme: http|:path: /|:authority: www.example.com"),
        ("828684be5886a8eb10649cbf",
         ":method: GET|:scheme: http|:path: /|:authority: www.example.com|cache-control: no-cache"),
        ("828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
         ":method: GET|:scheme: https|:path: /index.html|:authority: www.example.com|custom-key: custom-value"),
    ],
    "C.6 with a table of 256 bytes": [
        ("488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
         ":status: 302|cache-control: private|date: Mon, 21 Oct 2013 20:13:21 GMT|location: https://www.example.com"),
        ("4883640effc1c0bf",
         ":status: 307|cache-control: private|date: Mon, 21 Oct 2013 20:13:21 GMT|location: https://www.example.com"),
        ("88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f36"
         "72c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
         ":status: 200|cache-control: private|date: Mon, 21 Oct 2013 20:13:22 GMT|location: https://www.example.com|"
         "content-encoding: gzip|set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
    ],
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_headers_of_the_rfc(name: str) -> None:
    decoder = HpackDecoder(256 if "256" in name else 4096)
    for block, expected in EXAMPLES[name]:
        assert "|".join(": ".join(header) for header in decoder.decode(bytes.fromhex(block))) == expected


TEXT = st.binary(max_size=40).map(lambda data: data.decode("latin-1"))


@given(st.lists(st.lists(st.tuples(TEXT, TEXT, st.booleans()), max_size=6), max_size=5), st.booleans(),
       st.lists(st.integers(0, 4096), max_size=3))
def test_headers_of_another_hpack(blocks: list[list[tuple[str, str, bool]]], huffman: bool, sizes: list[int]) -> None:
    encoder, decoder = hpack.Encoder(), HpackDecoder()
    for at, block in enumerate(blocks):
        if at < len(sizes):
            encoder.header_table_size = sizes[at]
        headers = [(name.encode("latin-1"), value.encode("latin-1"), secret) for name, value, secret in block]
        found = decoder.decode(encoder.encode(headers, huffman=huffman))
        assert found == [(name, value) for name, value, _ in block]


@given(st.lists(st.tuples(TEXT, st.text(st.characters(max_codepoint=255), max_size=300)), max_size=5))
def test_another_hpack_reads_our_headers(headers: list[tuple[str, str]]) -> None:
    found = hpack.Decoder(max_header_list_size=1 << 20).decode(render_headers(headers), raw=True)
    assert [(name.decode("latin-1"), value.decode("latin-1")) for name, value in found] == headers


@given(st.binary(max_size=60))
def test_no_header_block_raises_anything_but_a_stream_error(block: bytes) -> None:
    try:
        ours: Any = HpackDecoder().decode(block)
    except StreamError:
        ours = None
    try:
        theirs: Any = [(bytes(name).decode("latin-1"), bytes(value).decode("latin-1"))
                       for name, value in hpack.Decoder().decode(block, raw=True)]
    except hpack.HPACKError:
        theirs = None
    if ours is not None and theirs is not None:
        assert ours == theirs


@pytest.mark.parametrize("block", [
    "80", "be", "ff", "ffffffffffffff", "40", "4005616263", "7f", "3fe23f", "823fe11f", "0081ff8161", "00820000",
    "0084ffffffff00",
])
def test_a_broken_header_block(block: str) -> None:
    with pytest.raises(StreamError):
        HpackDecoder().decode(bytes.fromhex(block))


# The session, asked by another HTTP/2


class Client:
    """BuildKit's side, by the h2 package; it speaks to a Session in pieces of any size."""

    def __init__(self, session: Session, cut: int = 0, window: int = 0) -> None:
        self.session, self.cut = session, cut
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        if window:
            self.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.data: dict[int, bytes] = {}
        self.headers: dict[int, dict[str, str]] = {}
        self.over: set[int] = set()
        self.most = 0  # bytes that came without our asking for more

    def ask(self, path: str, message: bytes, *, whole: bool = True, huge: int = 0) -> int:
        stream = int(self.h2.get_next_available_stream_id())
        extra = [("x-huge", "v" * huge)] if huge else []
        self.h2.send_headers(stream, [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x"),
                                      ("content-type", "application/grpc"), ("te", "trailers"), *extra])
        self.h2.send_data(stream, b"\0" + len(message).to_bytes(4, "big") + message, end_stream=whole, pad_length=3)
        return stream

    def run(self, *, open_windows: bool = True) -> None:
        """Carry bytes both ways until nothing moves."""
        while True:
            data = self.h2.data_to_send()
            if not data:
                return
            size = self.cut or len(data)
            for at in range(0, len(data), size):
                self.take(self.session.feed(data[at:at + size]), open_windows)

    def take(self, data: bytes, open_windows: bool) -> None:
        for event in self.h2.receive_data(data):
            stream = getattr(event, "stream_id", 0)
            if isinstance(event, (h2.events.ResponseReceived, h2.events.TrailersReceived)):
                self.headers.setdefault(stream, {}).update(dict(event.headers))
            elif isinstance(event, h2.events.DataReceived):
                self.data[stream] = self.data.get(stream, b"") + event.data
                if open_windows and event.flow_controlled_length:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, stream)
            elif isinstance(event, h2.events.StreamEnded):
                self.over.add(stream)

    def answer(self, stream: int) -> bytes:
        """The one message of a good answer."""
        assert stream in self.over
        assert (self.headers[stream][":status"], self.headers[stream]["grpc-status"]) == ("200", "0")
        data = self.data[stream]
        assert data[0] == 0 and int.from_bytes(data[1:5], "big") == len(data) - 5
        return data[5:]

    def refusal(self, stream: int) -> tuple[str, str]:
        assert stream in self.over and stream not in self.data
        return self.headers[stream]["grpc-status"], self.headers[stream].get("grpc-message", "")


SECRETS = {"token": b"s3cret", "empty": b"", "big": bytes(range(256)) * 2000}


def make_session() -> Session:
    return Session(session_methods(SECRETS))


@pytest.mark.parametrize("cut", [0, 1, 7])
def test_every_method(cut: int) -> None:
    session = make_session()
    client = Client(session, cut)
    health = client.ask(HEALTH, b"")
    secret, empty, unknown = (client.ask(GET_SECRET, render_field(1, name)) for name in (b"token", b"empty", b"nope"))
    anonymous = client.ask(CREDENTIALS, render_field(1, b"r.example:5000"))
    strange, cut_short = client.ask("/moby.filesync.v1.FileSync/DiffCopy", b"x"), client.ask(GET_SECRET, b"\x0a\x09tok")
    client.run()
    assert client.answer(health) == b"\x08\x01"
    assert Protobuf(client.answer(secret)).data(1) == b"s3cret"
    assert Protobuf(client.answer(empty)).data(1) == b""
    assert client.refusal(unknown) == ("5", "secret nope: not found")
    assert client.answer(anonymous) == b""
    assert client.refusal(strange) == ("12", "unknown method /moby.filesync.v1.FileSync/DiffCopy")
    assert client.refusal(cut_short)[0] == "2"
    assert [status for _, status in session.calls] == [0, 0, 0, 5, 0, 12, 2]
    client.h2.ping(b"12345678")
    client.run()
    client.h2.close_connection()
    client.run()
    assert session.ended


@pytest.mark.parametrize("window", [0, 100, 70000])
def test_a_large_secret_keeps_to_the_windows(window: int) -> None:
    client = Client(make_session(), window=window)
    streams = [client.ask(GET_SECRET, b"\x0a\x03big") for _ in range(3)]
    client.run(open_windows=False)
    assert sum(map(len, client.data.values())) <= 65535  # h2 itself complains of more
    for stream in streams:
        client.h2.acknowledge_received_data(len(client.data.get(stream, b"")), stream)
    client.run()
    assert all(Protobuf(client.answer(stream)).data(1) == SECRETS["big"] for stream in streams)


def test_windows_that_the_peer_narrows_later() -> None:
    client = Client(make_session())
    stream = client.ask(GET_SECRET, b"\x0a\x03big")
    client.run(open_windows=False)
    client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 10})
    client.run(open_windows=False)
    client.h2.acknowledge_received_data(len(client.data[stream]), stream)
    client.run()
    assert Protobuf(client.answer(stream)).data(1) == SECRETS["big"]


def test_a_request_that_is_reset_gets_no_answer() -> None:
    client = Client(make_session())
    first, second = client.ask(GET_SECRET, b"\x0a\x05token", whole=False), client.ask(HEALTH, b"")
    client.h2.reset_stream(first)
    client.run()
    assert first not in client.headers
    assert client.answer(second) == b"\x08\x01"


def test_headers_that_go_on_in_further_frames() -> None:
    client = Client(make_session())
    stream = client.ask(HEALTH, b"", huge=3 * FRAME_LIMIT)
    client.run()
    assert client.answer(stream) == b"\x08\x01"


@pytest.mark.parametrize("body", [b"", b"\0\0\0\0", b"\1\0\0\0\0", b"\0\0\0\0\5x", b"\0\0\0\0\0\0\0\0\0\0"])
def test_what_is_not_one_plain_message(body: bytes) -> None:
    client = Client(make_session())
    client.h2.send_headers(1, [(":method", "POST"), (":scheme", "http"), (":path", HEALTH), (":authority", "x")])
    client.h2.send_data(1, body, end_stream=True)
    client.run()
    assert client.refusal(1) == ("13", "not one plain message")


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
BLOCK = render_headers([(":path", HEALTH)])


@pytest.mark.parametrize("data", [
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    PREFACE + (FRAME_LIMIT + 1).to_bytes(3, "big") + bytes(6),
    PREFACE + frame(4, 0, 0, b"12345"),
    PREFACE + frame(1, 0, 1, BLOCK) + frame(6, 0, 0, bytes(8)),
    PREFACE + frame(1, 0, 1, BLOCK) + frame(9, 4, 3, b""),
    PREFACE + frame(9, 4, 1, BLOCK),
    PREFACE + frame(1, 4, 2, BLOCK),
    PREFACE + frame(1, 5, 5, BLOCK) + frame(1, 5, 3, BLOCK),
    PREFACE + frame(1, 12, 1, b"\xff" + BLOCK),
    PREFACE + frame(1, 4, 1, b"\xbe"),
    PREFACE + frame(1, 4, 1, BLOCK) + frame(0, 8, 1, b""),
    PREFACE + frame(1, 4, 1, BLOCK) + frame(0, 0, 1, bytes(FRAME_LIMIT)) * (REQUEST_LIMIT // FRAME_LIMIT + 1),
    PREFACE + frame(1, 0, 1, BLOCK) + frame(9, 0, 1, bytes(FRAME_LIMIT)) * (REQUEST_LIMIT // FRAME_LIMIT + 1),
    PREFACE + b"".join(frame(1, 4, stream, BLOCK) for stream in range(1, 4001, 2)),
], ids=range(14))
def test_a_broken_peer(data: bytes) -> None:
    session = make_session()
    with pytest.raises(StreamError):
        session.feed(data)


@given(st.lists(st.tuples(st.integers(0, 10), st.integers(0, 255), st.integers(0, 5), st.binary(max_size=20)),
                max_size=8))
def test_no_frames_raise_anything_but_a_stream_error(frames: list[tuple[int, int, int, bytes]]) -> None:
    try:
        make_session().feed(PREFACE + b"".join(frame(*each) for each in frames))
    except StreamError:
        pass


def test_the_announcement_names_every_method() -> None:
    headers = session_headers("ab" * 16, session_methods({}))
    assert [value for name, value in headers if name.endswith("Grpc-Method")] == [HEALTH, GET_SECRET, CREDENTIALS]
    assert ("X-Docker-Expose-Session-Uuid", "ab" * 16) in headers


# The pump


@contextlib.contextmanager
def pumped(session: Session, said: list[str]) -> Iterator[socket.socket]:
    here, there = socket.socketpair()
    with here, SessionPump(session, cogpredict.Transport(there), said.append):
        yield here


def talk(peer: socket.socket, client: Client, until: Callable[[], bool]) -> None:
    peer.settimeout(5)
    while not until():
        peer.sendall(client.h2.data_to_send())
        if not until():
            client.take(peer.recv(1 << 16), True)


def test_the_pump_serves_and_leaves_nothing() -> None:
    threads, descriptors = set(threading.enumerate()), set(os.listdir("/proc/self/fd"))
    said: list[str] = []
    client = Client(make_session())
    with pumped(client.session, said) as peer:
        streams = [client.ask(GET_SECRET, b"\x0a\x03big"), client.ask(HEALTH, b"")]
        talk(peer, client, lambda: client.over >= set(streams))
        assert Protobuf(client.answer(streams[0])).data(1) == SECRETS["big"]
        begun = time.monotonic()
    assert time.monotonic() - begun < 4
    assert said == [f"build session: {GET_SECRET}: 0", f"build session: {HEALTH}: 0"]
    assert set(threading.enumerate()) <= threads and set(os.listdir("/proc/self/fd")) <= descriptors


@pytest.mark.parametrize("data", [b"", b"PRI", b"nonsense"])
def test_the_pump_survives_its_peer(data: bytes) -> None:
    said: list[str] = []
    with pumped(make_session(), said) as peer:
        peer.sendall(data)
        peer.shutdown(socket.SHUT_RDWR)
        deadline = time.monotonic() + 5
        while data == b"nonsense" and not said and time.monotonic() < deadline:
            time.sleep(0.005)
    assert len(said) == (data == b"nonsense")


# A build


CONTEXT = [tar_file("Dockerfile", b"FROM x"), TAR_END]


def lines(*events: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(event).encode() + b"\r\n" for event in events)


STEP = {"stream": "STEP 1/1: RUN x\n"}
DONE = {"aux": {"ID": "sha256:1"}}
BROKEN = {"errorDetail": {"message": "exit code: 7"}, "error": "exit code: 7"}


@pytest.mark.parametrize("pieces", [0, 1, 3])
def test_a_build_sends_its_context_and_gets_an_image(pieces: int, capfd: pytest.CaptureFixture[str]) -> None:
    answer = chunked(lines(STEP, {"stream": "out\n"}), lines(DONE))
    with FakeEngine([Step("POST /v1.41/build", answer, pieces)]) as fake, fake.engine() as engine:
        assert build_image(engine, Console({}), query={"t": "a:b"}, context=CONTEXT) == "sha256:1"
    query = parse_qs(fake.seen[0].query)
    assert (query["t"], query["version"], query["forcerm"]) == (["a:b"], ["2"], ["1"]) and "session" not in query
    assert fake.seen[0].body == b"".join(CONTEXT)
    first, second = capfd.readouterr().err.splitlines()[:2]
    assert first == "#1 [1/1] RUN x" and re.fullmatch(r"#1 \d\.\d+ out", second)


def run_build(*events: dict[str, Any], end: bytes = b"0\r\n\r\n", podman: bool = False, **options: Any) -> FakeEngine:
    step = Step("POST /v1.41/build", chunked(lines(*events), end=end), close=not end)
    with FakeEngine([step]) as fake, fake.engine() as engine:
        engine.is_podman = podman
        build_image(engine, options.pop("console", Console({})), query={}, context=CONTEXT, **options)
    return fake


@pytest.mark.parametrize("options", [{}, {"quiet": True}, {"progress": "tty"}])
def test_a_failing_steps_log_is_shown_once(options: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    console = Console({}, progress=options.pop("progress", "auto"))
    with pytest.raises(BuildFailed, match="^the build failed: exit code: 7$") as caught:
        run_build(STEP, {"stream": "the reason\n"}, BROKEN, console=console, **options)
    shown = capfd.readouterr()
    assert caught.value.exit_code == 4 and shown.out == ""
    text = shown.err.rpartition("\x1b[J")[2]  # what is left on the screen
    assert text.count("the reason") == 1


def test_a_large_context_is_told_while_it_is_sent(capfd: pytest.CaptureFixture[str]) -> None:
    ticks = iter(range(0, 1000, 2))
    pieces = [bytes(1_000_000)] * 4
    for quiet in (False, True):
        view = cogpredict.BuildView(Console({}), quiet=quiet, clock=lambda: float(next(ticks)))
        assert list(view.count(pieces)) == pieces
        told = capfd.readouterr().err.splitlines()
        assert bool(told) is not quiet
        assert all(line.startswith("sending the build context: ") and line.endswith(" MB") for line in told)


def test_a_quiet_build_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    run_build(STEP, {"stream": "out\n"}, DONE, quiet=True)
    assert capfd.readouterr() == ("", "")


def test_a_build_on_a_terminal_leaves_nothing_on_it(capfd: pytest.CaptureFixture[str]) -> None:
    run_build(STEP, {"stream": "out\n"}, DONE, console=Console({}, progress="tty"))
    shown = capfd.readouterr().err
    assert re.search(r"\[\+\] Building \d\.\ds", shown)
    assert shown.rpartition("\x1b[J")[2] == ""


@pytest.mark.parametrize(("events", "end"), [
    ([STEP], b"0\r\n\r\n"), ([], b"0\r\n\r\n"), ([STEP, DONE], b""), ([STEP], b""),
    ([{"id": "moby.buildkit.trace", "aux": "AAAA"}], b"0\r\n\r\n"),
])
def test_an_answer_that_is_cut_or_broken(events: list[dict[str, Any]], end: bytes) -> None:
    with pytest.raises(StreamError):
        run_build(*events, end=end)


@pytest.mark.parametrize("early", [False, True])
def test_a_build_that_is_refused(early: bool) -> None:
    answer = reply("500 Internal Server Error", b'{"message": "invalid reference format"}')
    context = iter([*CONTEXT, *([bytes(1 << 20)] * 8 if early else [])])
    with FakeEngine([Step("POST /v1.41/build", answer, early=early)]) as fake, fake.engine() as engine, \
            pytest.raises(BuildFailed, match="could not begin: invalid reference format"):
        build_image(engine, Console({}), query={}, context=context)


@pytest.mark.parametrize("breaks", [1, 2])
def test_a_build_that_anothers_end_broke_is_begun_once_more(breaks: int, capfd: pytest.CaptureFixture[str]) -> None:
    answers = [chunked(lines(STEP, {"error": "context canceled"}))] * breaks + [chunked(lines(STEP, DONE))]
    expected = pytest.raises(BuildFailed, match="context canceled") if breaks == 2 else contextlib.nullcontext()
    steps = [Step("POST /v1.41/build", answer) for answer in answers[:2]]
    with FakeEngine(steps) as fake, fake.engine() as engine, expected:
        image = build_from_files(engine, {"D": b"FROM x"}, {"dockerfile": "D"}, {}, Console({}))
        assert image == "sha256:1"
    assert fake.seen[0].body == fake.seen[1].body
    assert capfd.readouterr().err.count("once more") == 1


def test_a_missing_base_and_a_full_disk_have_a_hint() -> None:
    for message, word in (
        ("x:1: failed to resolve source metadata for docker.io/library/x:1: failed to do request", "--base-image"),
        ('Head "https://registry.example/v2/library/x/manifests/1": dial tcp: no such host', "--base-image"),
        ("creating build container: initializing source docker://x:1: pinging", "--base-image"),
        ("write /x: no space left on device", "prune"),
    ):
        with pytest.raises(BuildFailed) as caught:
            run_build({"error": message})
        assert word in caught.value.hint


def test_podman_gets_secrets_without_a_session() -> None:
    fake = run_build(STEP, DONE, podman=True, secrets={"tok": b"s3cret", "other": b"x"})
    seen = fake.seen[0]
    query = parse_qs(seen.query)
    assert json.loads(query["secrets"][0]) == ["id=other,src=podman-build-secret0", "id=tok,src=podman-build-secret1"]
    assert "session" not in query
    with tarfile.open(fileobj=io.BytesIO(seen.body)) as tar:
        assert tar.getnames() == ["podman-build-secret0", "podman-build-secret1", "Dockerfile"]


def test_a_session_is_served_while_the_context_is_still_being_sent() -> None:
    asked = threading.Event()
    upgrade = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"

    def ask(peer: socket.socket) -> None:
        client = Client(Session({}))
        stream = client.ask(GET_SECRET, b"\x0a\x05token")
        talk(peer, client, lambda: stream in client.over)
        if Protobuf(client.answer(stream)).data(1) == b"s3cret":
            asked.set()

    def context() -> Iterator[bytes]:
        yield from CONTEXT
        assert asked.wait(5)

    steps = [Step("POST /v1.41/session", upgrade, talk=ask), Step("POST /v1.41/build", chunked(lines(DONE)))]
    with FakeEngine(steps) as fake, fake.engine() as engine:
        assert build_image(engine, Console({}), query={}, context=context(), secrets=SECRETS) == "sha256:1"
    uuid = fake.seen[0].headers["x-docker-expose-session-uuid"]
    assert parse_qs(fake.seen[1].query)["session"] == [uuid]


def test_what_goes_wrong_in_the_context_ends_the_build() -> None:
    def context() -> Iterator[bytes]:
        yield CONTEXT[0]
        raise cogpredict.UsageError("x cannot be read")

    with FakeEngine([Step("POST /v1.41/build", b"")]) as fake, fake.engine() as engine, \
            pytest.raises(cogpredict.UsageError, match="x cannot be read"):
        build_image(engine, Console({}), query={}, context=context())
    assert fake.seen[0].body == CONTEXT[0]


def test_an_interrupt_passes_through_and_closes_the_connection() -> None:
    closed = threading.Event()
    half = chunked(lines(STEP), end=b"")

    def watch(peer: socket.socket) -> None:
        peer.settimeout(5)
        if peer.recv(1) == b"":
            closed.set()

    class Stop(Console):
        def info(self, text: str) -> None:
            raise KeyboardInterrupt

    with FakeEngine([Step("POST /v1.41/build", half, talk=watch)]) as fake, fake.engine() as engine:
        with pytest.raises(KeyboardInterrupt):
            build_image(engine, Stop({}), query={}, context=CONTEXT)
        assert closed.wait(5)
