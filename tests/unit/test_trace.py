"""What builders say becomes the same events, and the events become what a person can read."""
from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogpredict import (
    LOG_KEPT,
    LOG_LINE,
    BuildError,
    BuildEvent,
    BuildProgress,
    BuildWarning,
    ImageId,
    Protobuf,
    StepCached,
    StepDone,
    StepFailed,
    StepLog,
    StepsKnown,
    StepStarted,
    StreamError,
    TraceParser,
    Transfer,
    columns,
    fill_line,
    parse_varint,
    plain_text,
    render_field,
    render_varint,
    step_hint,
)

RECORDED = sorted((Path(__file__).parents[1] / "golden" / "build").glob("*.jsonl"))


def number(field: int, value: int) -> bytes:
    return render_varint(field << 3) + render_varint(value)


def stamp(field: int, seconds: float) -> bytes:
    return render_field(field, number(1, int(seconds)) + number(2, int(seconds % 1 * 1e9)))


def vertex(name: str, begun: float = 0, ended: float = 0, cached: bool = False, error: str = "") -> bytes:
    data = render_field(1, b"sha256:" + name.encode()) + render_field(3, name.encode())
    data += number(4, 1) if cached else b""
    data += (stamp(5, begun) if begun else b"") + (stamp(6, ended) if ended else b"")
    return render_field(1, data + (render_field(7, error.encode()) if error else b""))


def status(name: str, what: str, current: int, total: int, done: bool = False) -> bytes:
    data = render_field(1, what.encode()) + render_field(2, b"sha256:" + name.encode())
    return render_field(2, data + number(4, current) + number(5, total) + (stamp(8, 9) if done else b""))


def log(name: str, data: bytes, at: float = 1000, stream: int = 1) -> bytes:
    return render_field(3, render_field(1, b"sha256:" + name.encode()) + stamp(2, at) + number(3, stream)
                        + render_field(4, data))


def trace(*parts: bytes) -> dict[str, Any]:
    return {"id": "moby.buildkit.trace", "aux": base64.b64encode(b"".join(parts)).decode()}


def events(*lines: dict[str, Any]) -> list[BuildEvent]:
    parser = TraceParser(lambda: 5.0)
    return [event for line in lines for event in parser.feed(line)]


def test_steps_are_numbered_as_they_start() -> None:
    found = events(trace(vertex("b"), vertex("a")), trace(vertex("a", 1000)), trace(vertex("b", 1001)),
                   trace(vertex("a", 1000, 1002.5)), trace(vertex("b", 1001, 1003, cached=True)))
    assert found == [StepsKnown(2), StepStarted(1, "a"), StepStarted(2, "b"), StepDone(1, 2.5), StepCached(2)]


def test_what_is_told_again_changes_nothing() -> None:
    line = trace(vertex("a", 1000, 1001))
    assert events(line, line, line) == [StepsKnown(1), StepStarted(1, "a"), StepDone(1, 1.0)]


def test_a_cached_step_needs_no_start() -> None:
    assert events(trace(vertex("a", 0, 1001, cached=True))) == [StepsKnown(1), StepStarted(1, "a"), StepCached(1)]


def test_log_lines_are_put_together_per_stream() -> None:
    found = events(trace(vertex("a", 1000)), trace(log("a", b"o", 1001), log("a", b"err\nx", 1001, 2)),
                   trace(log("a", b"ut\n\nlast", 1002.5)), trace(vertex("a", 1000, 1003)))
    assert found[2:] == [StepLog(1, b"err", 1.0), StepLog(1, b"out", 2.5), StepLog(1, b"", 2.5),
                         StepLog(1, b"last", 3.0), StepLog(1, b"x", 3.0), StepDone(1, 3.0)]


def test_a_line_without_end_is_not_held_for_ever() -> None:
    found = events(trace(vertex("a", 1000)), trace(log("a", b"x" * (LOG_LINE + 1))))
    assert found[2:] == [StepLog(1, b"x" * (LOG_LINE + 1), 0.0)]


def test_transfers_warnings_and_failures() -> None:
    warning = render_field(4, render_field(3, b"stale syntax") + render_field(7, render_field(1, number(1, 12))))
    found = events(trace(vertex("a", 1000), status("a", "sha256:1", 5, 10), status("a", "sha256:1", 10, 10, True)),
                   trace(warning), trace(vertex("a", 1000, 1001, error="exit code: 7")),
                   {"errorDetail": {"message": "failed to solve: rpc error: code = Unknown desc = exit code: 7"},
                    "error": "x"})
    assert found[2:] == [Transfer(1, "sha256:1", 5, 10, False), Transfer(1, "sha256:1", 10, 10, True),
                         BuildWarning("line 12: stale syntax"), StepFailed(1, "exit code: 7"),
                         BuildError("exit code: 7")]


@pytest.mark.parametrize(("line", "found"), [
    ({"id": "moby.image.id", "aux": {"ID": "sha256:1"}}, [ImageId("sha256:1")]),
    ({"aux": {"ID": "sha256:1"}}, [ImageId("sha256:1")]),
    ({"error": "boom"}, [BuildError("boom")]),
    ({"errorDetail": {"message": "boom"}, "error": "other"}, [BuildError("boom")]),
    ({"errorDetail": {"code": 1}, "error": "boom"}, [BuildError("boom")]),
    ({"aux": {"ID": 5}}, []), ({"stream": 5}, []), ({"what": "ever"}, []), ({"status": "x", "progressDetail": 1}, []),
    ({}, []),
])
def test_single_lines(line: dict[str, Any], found: list[BuildEvent]) -> None:
    assert events(line) == found


def test_text_of_20_10_behind_a_trace_is_no_step() -> None:
    assert events(trace(vertex("a", 1000)), {"stream": "Successfully tagged x:1\n"})[2:] == []


def say(*texts: str) -> list[dict[str, Any]]:
    return [{"stream": text} for text in texts]


def test_text_may_be_cut_anywhere() -> None:
    whole = "STEP 1/2: FROM x\nSTEP 2/2: RUN y\nout\n--> Using cache " + "a" * 64 + "\nCOMMIT z\n--> " + "a" * 12 + "\n"
    expected = events(*say(*whole.splitlines(keepends=True)))
    assert expected == [StepsKnown(2), StepStarted(1, "[1/2] FROM x"), StepDone(1, 0.0), StepStarted(2, "[2/2] RUN y"),
                        StepLog(2, b"out", 0.0), StepCached(2), StepStarted(3, "exporting to image")]
    assert events(*say(*whole)) == expected
    assert events(*say(whole)) == expected


def test_text_of_several_stages_and_of_a_pull() -> None:
    found = events(*say("[1/2] STEP 1/3: FROM x AS y\n"),
                   {"status": "Downloading", "id": "abc", "progressDetail": {"current": 1, "total": 2}},
                   {"status": "Pulling fs layer", "id": "abc", "progressDetail": {}},
                   *say("[2/2] STEP 1/5: FROM x\n"), {"error": "boom"})
    assert found == [StepsKnown(3), StepStarted(1, "[1/2 1/3] FROM x AS y"),
                     Transfer(1, "abc Downloading", 1, 2, False), StepDone(1, 0.0), StepsKnown(5),
                     StepStarted(2, "[2/2 1/5] FROM x"), StepFailed(2, "boom"), BuildError("boom")]


def test_output_that_looks_like_a_note_of_the_builders_is_kept_unless_it_is_one() -> None:
    found = events(*say("Step 1/1 : RUN x\n", "--> deep\n", " ---> not an id\n", "no end", " ---> 0123456789ab\n"))
    assert [event.line for event in found if isinstance(event, StepLog)] == [b"--> deep", b" ---> not an id", b"no end"]


@given(st.binary(max_size=200))
def test_garbage_in_a_trace_is_a_stream_error(data: bytes) -> None:
    try:
        events({"id": "moby.buildkit.trace", "aux": base64.b64encode(data).decode()})
    except StreamError:
        pass


@pytest.mark.parametrize("aux", ["x", {"ID": "x"}, 7, "\u00fc"])
def test_a_trace_that_is_not_base64_is_a_stream_error(aux: object) -> None:
    with pytest.raises(StreamError):
        events({"id": "moby.buildkit.trace", "aux": aux})


@pytest.mark.parametrize("path", [path for path in RECORDED if path.name.startswith("buildkit")], ids=lambda p: p.stem)
def test_no_cut_of_a_recorded_trace_raises_anything_else(path: Path) -> None:
    cut = 0
    for line in map(json.loads, path.read_text().splitlines()):
        data = base64.b64decode(line["aux"]) if line.get("id") == "moby.buildkit.trace" else b""
        for size in range(len(data)):
            try:
                TraceParser().feed(trace(data[:size]))
            except StreamError:
                cut += 1
    assert cut > 1000


@given(st.integers(0, (1 << 64) - 1))
def test_numbers_survive(value: int) -> None:
    data = render_varint(value)
    assert parse_varint(b"x" + data + b"y", 1) == (value, 1 + len(data))


@pytest.mark.parametrize("data", [b"\x80", b"\xff" * 10, b"\x0a\x05hi", b"\x0b", b"\x0d123", b"\x09123"])
def test_a_broken_message_is_a_stream_error(data: bytes) -> None:
    with pytest.raises(StreamError):
        Protobuf(data)


# What a person reads


def show(*told: BuildEvent, width: int = 60, now: float = 9.0, **options: int) -> tuple[list[str], list[str]]:
    progress = BuildProgress(0.0, **options)
    plain = [line for at, event in enumerate(told) for line in progress.add(event, float(at))]
    return plain, progress.region(width, now)


def test_steps_at_once_are_told_apart() -> None:
    plain, _ = show(StepStarted(1, "one"), StepLog(1, b"a", 0.1), StepStarted(2, "two"), StepLog(1, b"b", 0.2),
                    StepLog(2, b"c", 0.25), StepDone(2, 1.0), StepDone(1, 2.0))
    assert plain == ["#1 one", "#1 0.100 a", "#1 ...", "", "#2 two", "#2 ...", "", "#1 one", "#1 0.200 b", "#1 ...", "",
                     "#2 two", "#2 0.250 c", "#2 DONE 1.0s", "", "#1 one", "#1 DONE 2.0s"]


def test_a_region_shows_what_runs() -> None:
    _, region = show(StepsKnown(4), StepStarted(1, "[1/4] FROM x"), StepCached(1), StepStarted(2, "[2/4] RUN y"),
                     *(StepLog(2, b"line %d" % at, 0.0) for at in range(9)), StepStarted(3, "pull"),
                     Transfer(3, "sha256:" + "a" * 64, 1_000_000, 2_000_000, False), width=40, now=20.0)
    assert region == [
        "[+] Building 20.0s (1/4)",
        " => CACHED [1/4] FROM x             0.0s",
        " => [2/4] RUN y                    17.0s",
        *(f" => => # line {at}" for at in range(4, 9)),
        " => pull                            7.0s",
        " => => sha256:aaaaaaaaaaaa 1.0 MB / 2.0 ",
    ]


def test_a_region_never_outgrows_its_room() -> None:
    told: list[BuildEvent] = []
    for step in range(1, 40):
        told += [StepStarted(step, f"step {step} " + "\u5bb6" * 50), *([StepDone(step, 1.0)] if step % 3 else []),
                 *(StepLog(step, b"\x1b[2Jwild\x1b]0;t\x07\r" + b"z" * 300, 0.0) for _ in range(9))]
        for width in (20, 61):
            _, region = show(*told, width=width, lines=12)
            assert len(region) <= 12
            assert all(sum(map(columns, line)) <= width for line in region)
            assert "\x1b" not in "".join(region)
    _, region = show(StepStarted(1, "old"), StepDone(1, 0.0), StepStarted(2, "new"), StepDone(2, 0.0), lines=2)
    assert region[1].startswith(" => new")


def test_transfers_are_plain_lines_only_when_done() -> None:
    plain, _ = show(StepStarted(1, "pull"), Transfer(1, "layer", 1, 9, False), Transfer(1, "layer", 9, 9, True),
                    Transfer(1, "layer", 9, 9, True), StepDone(1, 1.0))
    assert plain == ["#1 pull", "#1 layer 9 B / 9 B done", "#1 DONE 1.0s"]


def test_the_failing_steps_log_is_kept_not_the_one_that_was_called_off() -> None:
    progress = BuildProgress(0.0)
    plain = []
    for event in (StepStarted(1, "bad"), StepStarted(2, "other"), StepLog(1, b"why\x1b[1m!", 0.0),
                  StepLog(2, b"x", 0.0), StepFailed(1, "exit code: 1"),
                  StepFailed(2, "context canceled")):
        plain += progress.add(event, 0.0)
    assert progress.failure() == ["------", " > bad:", "why!", "------"]
    assert plain[-1] == "#2 CANCELED" and "#1 ERROR: exit code: 1" in plain


def test_a_log_is_kept_up_to_a_bound() -> None:
    progress = BuildProgress(0.0)
    progress.add(StepStarted(1, "loud"), 0.0)
    for at in range(3 * LOG_KEPT // 1000):
        progress.add(StepLog(1, b"%999d" % at, 0.0), 0.0)
    progress.add(StepFailed(1, "exit code: 1"), 0.0)
    lines = progress.failure()
    assert lines[2] == "[earlier output was left out]"
    assert lines[-2].endswith(str(3 * LOG_KEPT // 1000 - 1))
    assert LOG_KEPT - 2000 < sum(len(line) + 1 for line in lines[3:-1]) <= LOG_KEPT


def test_nothing_of_a_step_that_is_unknown_is_shown() -> None:
    assert show(StepLog(7, b"x", 0.0), StepDone(7, 1.0), Transfer(7, "x", 1, 1, True))[0] == []


@given(st.binary(max_size=80))
def test_no_log_line_steers_a_terminal(line: bytes) -> None:
    assert plain_text(line).isprintable()


@given(st.text(max_size=40), st.sampled_from(["", " 1.2s"]), st.integers(10, 50))
def test_a_line_fills_its_width_and_no_more(left: str, right: str, width: int) -> None:
    line = fill_line(left, right, width)
    used = sum(map(columns, line))
    assert line.endswith(right)
    assert used == width if right else used <= width


@pytest.mark.parametrize(("line", "words"), [
    ("error: command 'gcc' failed: No such file or directory", "[build-essential]"),
    ("/bin/sh: 1: make: not found", "[build-essential]"),
    ("error: command 'x86_64-linux-gnu-gcc' failed: No such file or directory", "[build-essential]"),
    ("unable to execute 'x86_64-linux-gnu-gcc': No such file or directory", "[build-essential]"),
    ("make: gcc: No such file or directory", "[build-essential]"),
    ("bash: line 1: git-lfs: command not found", "there is no git-lfs there"),
    ("E: Unable to locate package libfoo5", "no apt package libfoo5"),
    ("ERROR: No matching distribution found for torch==1.7.0", "python_version in cog.yaml"),
    ("curl: (60) SSL certificate problem: self-signed certificate in certificate chain", "COG_CA_CERT"),
    ("ssl.SSLCertVerificationError: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed", "COG_CA_CERT"),
    ("curl: (60) SSL certificate problem: unable to get local issuer certificate", "COG_CA_CERT"),
    ("CERTIFICATE_VERIFY_FAILED\nERROR: No matching distribution found for x", "COG_CA_CERT"),
    ("curl: (6) Could not resolve host: example.com", "HTTPS_PROXY"),
    ("Temporary failure in name resolution\nERROR: No matching distribution found for x", "HTTPS_PROXY"),
    ("W: Temporary failure resolving 'example.com'\nE: Unable to locate package sox", "HTTPS_PROXY"),
    ("W: Could not resolve 'a.example'\nE: Unable to locate package x", "HTTPS_PROXY"),
    ("W: Could not connect to a.example:80, timed out\nE: Unable to locate package x", "HTTPS_PROXY"),
    ("Failed to establish a new connection: [Errno 111] Connection refused\nno matching distribution", "HTTPS_PROXY"),
    ("remote: Not Found", ""),
    ("RuntimeError: the key was not found", ""), ("{}: not found in {0}", ""),
])
def test_the_log_of_a_failed_step_tells_what_to_do(line: str, words: str) -> None:
    hint = step_hint(["Collecting a", line, *["more"] * 20])
    assert words in hint and bool(words) == bool(hint), hint
