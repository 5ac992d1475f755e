"""Every call of the engine's API against a scripted engine: accepted, refused, not JSON, cut, bytewise, early."""
from __future__ import annotations

import base64
import io
import json
import select
import socket
import threading
import time
import urllib.parse
from typing import Any, Callable, NamedTuple

import pytest
from fakeengine import FakeEngine, Step, chunked, ping_reply, reply, upgraded

import cogpredict
from cogpredict import Console, Engine, EngineError, EngineUnreachable, StreamError

C = "/v1.41/containers/c0ffee"


class Call(NamedTuple):
    """One method, the request it must make, an answer, and what it then returns."""

    name: str
    make: Callable[[Engine], Any]
    request: str
    answer: bytes
    result: Any = None
    query: str = ""
    body: Any = None


PLAIN = [
    Call("info", lambda e: e.info(), "GET /v1.41/info", b'{"ID": "x"}', {"ID": "x"}),
    Call("image_inspect", lambda e: e.image_inspect("me/m:1"), "GET /v1.41/images/me/m:1/json", b'{"Id": "i"}',
         {"Id": "i"}),
    Call("image_list", lambda e: e.image_list("a=b"), "GET /v1.41/images/json", b'[{"Id": "i"}]', [{"Id": "i"}],
         'filters={"label": ["a=b"]}'),
    Call("container_create", lambda e: e.container_create({"Image": "m"}, name="n", platform="linux/amd64"),
         "POST /v1.41/containers/create", b'{"Id": "c0ffee", "Warnings": []}', "c0ffee",
         "name=n&platform=linux/amd64", {"Image": "m"}),
    Call("container_inspect", lambda e: e.container_inspect("c0ffee"), f"GET {C}/json", b'{"Id": "c"}', {"Id": "c"}),
    Call("container_list", lambda e: e.container_list("a"), "GET /v1.41/containers/json", b"[]", [],
         'all=1&filters={"label": ["a"]}'),
    Call("exec_create", lambda e: e.exec_create("c0ffee", ["cat"]), f"POST {C}/exec", b'{"Id": "e1"}', "e1", "",
         {"AttachStdin": True, "AttachStdout": True, "AttachStderr": True, "Cmd": ["cat"]}),
]
SILENT = [
    Call("container_start", lambda e: e.container_start("c0ffee"), f"POST {C}/start", b""),
    Call("container_kill", lambda e: e.container_kill("c0ffee"), f"POST {C}/kill", b"", None, "signal=KILL"),
    Call("container_remove", lambda e: e.container_remove("c0ffee"), f"DELETE {C}", b"", True, "v=1&force=1"),
    Call("container_resize", lambda e: e.container_resize("c0ffee", 24, 80), f"POST {C}/resize", b"", None,
         "h=24&w=80"),
    Call("image_remove", lambda e: e.image_remove("m:1"), "DELETE /v1.41/images/m:1", b""),
    Call("image_tag", lambda e: e.image_tag("m:1", "n", "2"), "POST /v1.41/images/m:1/tag", b"", None, "repo=n&tag=2"),
    Call("put_archive", lambda e: e.container_put_archive("c0ffee", "/src", [b"ta", b"", b"r"]), f"PUT {C}/archive",
         b"", None, "path=/src"),
]
ROW = '{"status": "x"}'
STREAMED = [
    Call("image_pull", lambda e: e.image_pull("me/m:1"), "POST /v1.41/images/create", ROW.encode(), None,
         "fromImage=me/m&tag=1"),
    Call("image_load", lambda e: e.image_load(io.BytesIO(b"tar")), "POST /v1.41/images/load",
         b'{"stream": "Loaded image: m:1\\n"}', ["m:1"], "quiet=0"),
    Call("image_build", lambda e: list(e.image_build({"t": "m"}, [b"tar"])), "POST /v1.41/build", ROW.encode(),
         [{"status": "x"}], "t=m"),
]
HIJACKED = [
    Call("container_attach", lambda e: e.container_attach("c0ffee"), f"POST {C}/attach", b"", None,
         "stream=1&stdout=1&stderr=1"),
    Call("exec_start", lambda e: e.exec_start("e1"), "POST /v1.41/exec/e1/start", b"", None, "",
         {"Detach": False, "Tty": False}),
    Call("session_open", lambda e: e.session_open([("X-Docker-Expose-Session-Uuid", "u")]), "POST /v1.41/session", b""),
]
ALL = PLAIN + SILENT + STREAMED + HIJACKED
every_call = pytest.mark.parametrize("call", ALL, ids=lambda call: call.name)
every_json = pytest.mark.parametrize("call", PLAIN + STREAMED, ids=lambda call: call.name)


def answer(call: Call) -> bytes:
    if call in HIJACKED:
        return upgraded()
    if call in STREAMED:
        return chunked(call.answer[:5], call.answer[5:] + b"\r\n")
    return reply("200 OK", call.answer) if call.answer else b"HTTP/1.1 204 No Content\r\n\r\n"


def close(result: Any) -> None:
    if isinstance(result, cogpredict.Transport):
        result.close()


def wait_for(transport: cogpredict.Transport, limit: int = 1 << 16) -> bytes:
    """The next bytes of a stream, as a loop would get them."""
    if not transport.pending():
        assert select.select([transport], [], [], 5)[0], "nothing came"
    return transport.recv(limit)


@every_call
@pytest.mark.parametrize("pieces", [1, 0], ids=["whole", "bytewise"])
def test_accepted_however_the_bytes_come(call: Call, pieces: int) -> None:
    with FakeEngine([Step(call.request, answer(call), pieces)]) as fake, fake.engine() as engine:
        result = call.make(engine)
        if call in HIJACKED:
            close(result)
        else:
            assert result == call.result
    seen = fake.seen[0]
    assert urllib.parse.unquote_plus(seen.query) == call.query
    if call.body is not None:
        assert json.loads(seen.body) == call.body
        assert seen.headers["content-type"] == "application/json"


@every_call
@pytest.mark.parametrize("body, kind, words", [
    (b'{"message": "out of luck"}', "application/json", "out of luck"),
    (b"<html>a proxy", "text/html", "<html>a proxy"),
    (b"", "text/plain", "Oops"),
    (b'{"cause": "x", "message": "out of luck", "response": 500}', "application/json", "out of luck"),
], ids=["json", "text", "empty", "podman"])
def test_refused_in_the_engines_own_words(call: Call, body: bytes, kind: str, words: str) -> None:
    script = Step(call.request, reply("500 Oops", body, kind))
    with FakeEngine([script]) as fake, fake.engine() as engine, pytest.raises(EngineError) as caught:
        call.make(engine)
    assert (caught.value.status, caught.value.message) == (500, words)


@every_json
@pytest.mark.parametrize("body", [b"<html>", b'"text"', b'{"Id": ', b"[" * 100_000], ids=list("htcd"))
def test_an_answer_that_is_not_json_is_a_broken_protocol(call: Call, body: bytes) -> None:
    script = Step(call.request, reply("200 OK", body))
    with FakeEngine([script]) as fake, fake.engine() as engine, pytest.raises(StreamError):
        call.make(engine)


@every_json
def test_an_answer_that_ends_early_is_a_broken_protocol_wherever_it_is_cut(call: Call) -> None:
    whole = answer(call)
    for cut in range(len(whole) - (4 if call in STREAMED else 0)):
        script = Step(call.request, whole[:cut], close=True)
        with FakeEngine([script]) as fake, fake.engine() as engine, pytest.raises(StreamError):
            call.make(engine)


@every_call
def test_an_engine_that_dies_instead_of_answering_is_a_broken_protocol(call: Call) -> None:
    script = Step(call.request, b"", close=True)
    with FakeEngine([script]) as fake, fake.engine() as engine, pytest.raises(StreamError, match="before it answered"):
        call.make(engine)


@pytest.mark.parametrize("request_line, make", [
    ("POST /v1.41/images/load", lambda e, body: e.image_load(io.BytesIO(body))),
    ("POST /v1.41/build", lambda e, body: e.image_build({}, (body[at:at + 9999] for at in range(0, len(body), 9999)))),
    (f"PUT {C}/archive", lambda e, body: e.container_put_archive("c0ffee", "/", [body])),
], ids=["load", "build", "put_archive"])
def test_an_answer_that_comes_before_the_body_was_read_is_heard(request_line: str, make: Any) -> None:
    script = Step(request_line, reply("400 Bad Request", b'{"message": "invalid tag"}'), early=True)
    with FakeEngine([script]) as fake, fake.engine() as engine, pytest.raises(EngineError, match="invalid tag"):
        make(engine, bytes(8 << 20))


def test_an_engine_that_refuses_without_reading_or_closing_ends_the_upload() -> None:
    def linger(connection: socket.socket) -> None:
        time.sleep(0.5)

    script = Step("POST /v1.41/build", reply("400 Bad Request", b'{"message": "no"}'), early=True, talk=linger)
    with FakeEngine([script]) as fake, fake.engine() as engine, pytest.raises(EngineError, match="no"):
        engine.image_build({}, iter(lambda: bytes(1 << 16), None))  # type: ignore[arg-type]


def test_an_engine_that_talks_during_the_upload_does_not_dead_lock() -> None:
    row = json.dumps({"stream": "x" * 1000}).encode() + b"\n"
    count = 4000

    def talk_first(connection: socket.socket) -> None:
        for _ in range(count):
            connection.sendall(b"%x\r\n%b\r\n" % (len(row), row))
        left = b""
        while not left.endswith(b"0\r\n\r\n"):
            left = left[-9:] + connection.recv(1 << 16)
        connection.sendall(b"0\r\n\r\n")

    head = chunked(end=b"")
    script = Step("POST /v1.41/build", head, early=True, talk=talk_first)
    with FakeEngine([script]) as fake, fake.engine() as engine:
        rows = list(engine.image_build({}, [bytes(1 << 16)] * 100))
    assert len(rows) == count


def test_what_is_not_there_is_none_or_done() -> None:
    gone = reply("404 Not Found", b'{"message": "No such thing"}')
    requests = [f"GET {C}/json", "GET /v1.41/images/m/json", f"DELETE {C}", f"POST {C}/kill",
                "DELETE /v1.41/images/m", f"GET {C}/archive"]
    with FakeEngine([Step(request, gone) for request in requests]) as fake, fake.engine() as engine:
        assert engine.container_inspect("c0ffee") is None
        assert engine.image_inspect("m") is None
        assert not engine.container_remove("c0ffee")
        engine.container_kill("c0ffee")
        engine.image_remove("m")
        assert engine.container_get_archive("c0ffee", "/src/x") is None


def test_an_archive_is_passed_on_as_it_is() -> None:
    with FakeEngine([Step(f"GET {C}/archive", reply("200 OK", b"\0tar\n"))]) as fake, fake.engine() as engine:
        assert engine.container_get_archive("c0ffee", "/src/a b") == b"\0tar\n"


def test_what_is_done_already_is_done() -> None:
    with FakeEngine([
        Step(f"POST {C}/start", b"HTTP/1.1 304 Not Modified\r\n\r\n"),
        Step(f"POST {C}/kill", reply("409 Conflict", b'{"message": "is not running"}')),
        Step(f"POST {C}/kill", reply("500 E", b'{"message": "can only kill running containers. x: container state"}')),
        Step(f"DELETE {C}", reply("409 Conflict", b'{"message": "removal of container x is already in progress"}')),
    ]) as fake, fake.engine() as engine:
        engine.container_start("c0ffee")
        engine.container_kill("c0ffee")
        engine.container_kill("c0ffee")
        engine.container_remove("c0ffee")


def test_podman_is_told_to_kill_before_it_removes_and_again_where_it_may_have_removed_half() -> None:
    script = [Step(f"POST {C}/kill", reply("404 Not Found", b"{}")), Step(f"DELETE {C}", reply("200 OK", b"[]")),
              Step(f"POST {C}/kill", reply("204 No Content")), Step(f"DELETE {C}", reply("200 OK", b"[]")),
              Step(f"POST {C}/kill", reply("409 Conflict", b"{}")), Step(f"DELETE {C}", reply("200 OK", b"[]"))]
    with FakeEngine(script) as fake, fake.engine() as engine:
        engine.is_podman = True
        engine.container_remove("c0ffee")
        assert engine.detached_remove("c0ffee")


def test_a_container_that_resists_removal_is_an_error() -> None:
    script = Step(f"DELETE {C}", reply("409 Conflict", b'{"message": "it is running"}'))
    with FakeEngine([script]) as fake, fake.engine() as engine, pytest.raises(EngineError, match="it is running"):
        engine.container_remove("c0ffee")


def test_a_forgotten_kill_does_not_wait_for_its_answer() -> None:
    returned, found = threading.Event(), list[bool]()
    script = Step(f"POST {C}/kill", b"", talk=lambda _: found.append(returned.wait(10)))
    with FakeEngine([script]) as fake, fake.engine() as engine:
        engine.container_kill("c0ffee", forget=True)
        returned.set()
    assert found == [True] and fake.seen[0].query == "signal=KILL"


def test_the_connection_is_kept_between_calls_and_given_up_when_the_engine_ends_it() -> None:
    step = Step("GET /v1.41/info", reply("200 OK", b"{}"))
    with FakeEngine([step, step, step._replace(close=True), step]) as fake, fake.engine() as engine:
        for number in range(4):
            engine.info()
            while number == 2 and fake._open[0].fileno() >= 0:
                time.sleep(0.005)
        assert len(fake._open) == 2


def test_a_stream_keeps_the_bytes_that_came_with_its_head() -> None:
    def echo(connection: socket.socket) -> None:
        while True:
            data = connection.recv(100)
            if not data:
                break
            connection.sendall(data.upper())
        connection.sendall(b"bye")

    script = Step("POST /v1.41/exec/e1/start", upgraded(b"first"), talk=echo)
    with FakeEngine([script]) as fake, fake.engine() as engine:
        stream = engine.exec_start("e1")
        assert stream.pending()
        assert stream.recv(2) + stream.recv(99) == b"first"
        assert not stream.pending()
        with pytest.raises(BlockingIOError):
            stream.recv(99)
        assert stream.send(b"more") == 4
        assert wait_for(stream) == b"MORE"
        stream.half_close()
        assert wait_for(stream) == b"bye"
        assert wait_for(stream) == b""
        stream.close()
        stream.close()


def test_a_full_stream_says_so_and_one_whose_peer_is_gone_too() -> None:
    full, found = threading.Event(), list[bool]()
    script = Step("POST /v1.41/exec/e1/start", upgraded(), talk=lambda _: found.append(full.wait(10)))
    with FakeEngine([script]) as fake, fake.engine() as engine:
        stream = engine.exec_start("e1")
        with pytest.raises(BlockingIOError):
            while True:
                assert stream.send(bytes(1 << 20)) > 0
        full.set()
        with pytest.raises(BrokenPipeError):
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline:
                try:
                    stream.send(bytes(1 << 20))
                except BlockingIOError:
                    time.sleep(0.02)
        stream.close()


@pytest.mark.parametrize("whole", [
    chunked(b'{"Error": null, "StatusCode": 137}\n'),
    chunked(b'{"Error": nu', b'll, "StatusCode": 137}'),
    reply("200 OK", b'{"Error": {"Message": "}"}, "StatusCode": 137}'),
], ids=["docker", "chunks", "length"])
def test_the_exit_code_comes_when_it_comes(whole: bytes) -> None:
    head, rest = whole[:whole.index(b"\r\n\r\n") + 4], whole[whole.index(b"\r\n\r\n") + 4:]

    def bytewise(connection: socket.socket) -> None:
        for at in range(len(rest)):
            connection.sendall(rest[at:at + 1])
            time.sleep(0.0005)

    with FakeEngine([Step(f"POST {C}/wait", head, talk=bytewise)]) as fake, fake.engine() as engine:
        ended = engine.container_wait("c0ffee")
        found = None
        while found is None:
            found = ended.feed(wait_for(ended, 5))
        assert found["StatusCode"] == 137
        ended.close()
    assert fake.seen[0].query == "condition=removed"


def test_a_wait_that_is_cut_is_a_broken_protocol() -> None:
    for cut in (chunked(end=b""), chunked(b'{"Status', end=b""), chunked(b"{}", end=b"")[:-4]):
        with FakeEngine([Step(f"POST {C}/wait", cut, close=True)]) as fake, fake.engine() as engine:
            ended = engine.container_wait("c0ffee")
            with pytest.raises(StreamError, match="ended before it answered"):
                for _ in range(9):
                    ended.feed(wait_for(ended))
            ended.close()


def test_a_wait_that_is_not_chunked_as_it_says_is_a_broken_protocol() -> None:
    script = Step(f"POST {C}/wait", chunked(end=b"what?\r\n"), close=True)
    with FakeEngine([script]) as fake, fake.engine() as engine:
        ended = engine.container_wait("c0ffee")
        with pytest.raises(StreamError, match="chunked"):
            ended.feed(wait_for(ended))
        ended.close()


def test_a_pull_sends_platform_and_credentials_and_hands_on_its_events() -> None:
    rows = [{"status": "Downloading", "id": "a"}, {"status": "Status: done"}]
    wire = chunked(*(json.dumps(row).encode() + b"\r\n" for row in rows))
    events: list[Any] = []
    with FakeEngine([Step("POST /v1.41/images/create", wire)]) as fake, fake.engine() as engine:
        engine.image_pull("r.example.com/a/b@sha256:" + "0" * 64, platform="linux/arm64", auth="c2VjcmV0",
                          on_event=events.append)
    assert events == rows
    query = dict(urllib.parse.parse_qsl(fake.seen[0].query))
    assert query == {"fromImage": "r.example.com/a/b", "tag": "sha256:" + "0" * 64, "platform": "linux/arm64"}
    assert fake.seen[0].headers["x-registry-auth"] == "c2VjcmV0"


def test_a_failure_inside_a_stream_is_an_error_in_the_engines_words() -> None:
    wire = chunked(b'{"status": "Pulling"}\r\n{"errorDetail": {"message": "no space left"}, "error": "no"}\r\n')
    script = [Step("POST /v1.41/images/create", wire), Step("POST /v1.41/images/load", wire)]
    with FakeEngine(script) as fake, fake.engine() as engine:
        with pytest.raises(EngineError) as caught:
            engine.image_pull("m")
        assert (caught.value.status, str(caught.value)) == (0, "pull m: no space left")
        with pytest.raises(EngineError, match="no space left"):
            engine.image_load(io.BytesIO(b"tar"))


def test_a_build_hands_its_failing_line_on() -> None:
    row = {"errorDetail": {"message": "exit code: 7"}, "error": "exit code: 7"}
    with FakeEngine([Step("POST /v1.41/build", chunked(json.dumps(row).encode()))]) as fake, fake.engine() as engine:
        assert list(engine.image_build({}, [b"tar"])) == [row]
    assert fake.seen[0].body == b"tar"
    assert fake.seen[0].headers["content-type"] == "application/x-tar"


def test_closing_a_build_closes_its_connection() -> None:
    ended: list[bytes] = []

    def wait_for_end(connection: socket.socket) -> None:
        connection.settimeout(5)
        ended.append(connection.recv(1))

    script = Step("POST /v1.41/build", chunked(b'{"stream": "x"}\n', end=b""), talk=wait_for_end)
    with FakeEngine([script]) as fake, fake.engine() as engine:
        build = engine.image_build({}, [b"tar"])
        assert next(build) == {"stream": "x"}
        build.close()  # type: ignore[attr-defined]
        deadline = time.monotonic() + 4
        while not ended and time.monotonic() < deadline:
            time.sleep(0.01)
        assert ended == [b""]


def test_a_session_asks_for_h2c_and_may_repeat_a_header() -> None:
    with FakeEngine([Step("POST /v1.41/session", upgraded(b"PRI"))]) as fake, fake.engine() as engine:
        stream = engine.session_open([("X-Method", "/a"), ("X-Method", "/b")])
        assert wait_for(stream) == b"PRI"
        stream.close()
    assert fake.seen[0].headers["upgrade"] == "h2c"


def test_the_trace_names_calls_and_no_secrets(capfd: pytest.CaptureFixture[str]) -> None:
    with FakeEngine([
        Step("POST /v1.41/containers/create", reply("201 Created", b'{"Id": "c0ffee", "Warnings": ["no swap"]}')),
        Step("POST /v1.41/images/create", chunked(b"{}")),
    ]) as fake, fake.engine(console=Console({}, debug=True)) as engine:
        engine.container_create({"Image": "m", "Env": ["TOKEN=hunter2"]})
        engine.image_pull("m", auth=base64.urlsafe_b64encode(b"hunter2").decode())
    trace = capfd.readouterr().err
    assert "POST /containers/create 201" in trace and "no swap" in trace
    assert "hunter2" not in trace and base64.b64encode(b"hunter2").decode() not in trace


def test_a_header_cannot_be_split() -> None:
    with FakeEngine([]) as fake, fake.engine() as engine, pytest.raises(cogpredict.UsageError):
        engine.image_pull("m", auth="x\r\nX-Evil: 1")


def test_a_path_cannot_be_split() -> None:
    request = "GET /v1.41/images/a%20b%0D%0A/json"
    with FakeEngine([Step(request, reply("200 OK", b"{}"))]) as fake, fake.engine() as engine:
        assert engine.image_inspect("a b\r\n") == {}


def test_out_of_memory_is_known_from_the_state_or_from_the_events() -> None:
    gone = reply("404 Not Found", b"{}")
    with FakeEngine([
        Step(f"GET {C}/json", reply("200 OK", b'{"State": {"OOMKilled": true}}')),
        Step(f"GET {C}/json", gone), Step("GET /v1.41/events", chunked(b'{"status": "oom"}\n')),
        Step(f"GET {C}/json", reply("200 OK", b'{"State": {"OOMKilled": false}}')),
        Step("GET /v1.41/events", chunked(b'{"status": "oom"}\n')),
        Step(f"GET {C}/json", gone), Step("GET /v1.41/events", chunked()),
        Step(f"GET {C}/json", reply("500 Internal Server Error", b'{"message": "shutting down"}')),
        Step(f"GET {C}/json", gone),
    ]) as fake, fake.engine() as engine:
        assert engine.was_oom_killed("c0ffee")
        assert engine.was_oom_killed("c0ffee")
        assert engine.was_oom_killed("c0ffee")
        assert not engine.was_oom_killed("c0ffee")
        assert not engine.was_oom_killed("c0ffee")
        engine.is_podman = True  # it has no such event, and is not asked for one
        assert not engine.was_oom_killed("c0ffee")


def test_a_detached_process_removes_what_it_finds_and_looks_again_while_it_is_in_the_making() -> None:
    request = "DELETE /v1.41/containers/run1"
    gone, removed = reply("404 Not Found", b"{}"), b"HTTP/1.1 204 No Content\r\n\r\n"
    steps = [Step(request, gone)] * 20 + [Step(request, removed)]  # two seconds: a busy engine takes its time
    with FakeEngine(steps) as fake, fake.engine() as engine:
        assert engine.detached_remove("run1")
    with FakeEngine([]) as fake:
        engine = fake.engine()
    assert not engine.detached_remove("run1")  # the engine itself is gone


@pytest.mark.parametrize("headers, version, is_podman", [
    ([], "1.41", False), (["Libpod-Api-Version: 5.4.2"], "1.41", True), (["Server: Libpod/5.4 (linux)"], "1.44", True),
])
def test_connecting_agrees_on_a_version(headers: list[str], version: str, is_podman: bool) -> None:
    script = [Step("GET /_ping", ping_reply(version, *headers)),
              Step(f"GET /v{version}/info", reply("200 OK", b"{}"))]
    with FakeEngine(script) as fake, cogpredict.connect_engine(fake.address, Console({}), {}) as engine:
        assert (engine.api_version, engine.is_podman, engine.host_is_local) == (version, is_podman, True)
        engine.info()


@pytest.mark.parametrize("answer, words", [
    (reply("404 Not Found", b"nginx", "text/html"), "not a container engine"),
    (reply("200 OK", b"hello", "text/html"), "names no API version"),
    (b"SSH-2.0-OpenSSH_9\r\n", "not a container engine"),
    (reply("400 Bad Request", b"Client sent an HTTP request to an HTTPS server.\n", "text/plain"), "HTTPS"),
    (ping_reply("1.24"), "too old"),
])
def test_what_is_no_engine_is_said_so(answer: bytes, words: str) -> None:
    script = Step("GET /_ping", answer, close=True)
    with FakeEngine([script]) as fake, pytest.raises(EngineUnreachable, match=words) as caught:
        cogpredict.connect_engine(fake.address, Console({}), {})
    assert caught.value.exit_code == 3 and caught.value.hint
