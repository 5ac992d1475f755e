"""A response's log goes its own way, whatever its length and wherever the bytes are cut."""
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogpredict import (
    EventReader,
    HookReader,
    LogTail,
    Progress,
    RuntimeLog,
    SpillReader,
    Spoken,
    StreamError,
    count_black,
)


def read(texts, size, *, wanted=True):
    """(documents, shown log) of responses that come in pieces of `size` bytes."""
    shown = bytearray()
    logs = LogTail(shown.extend)
    logs.wanted = wanted
    documents = []
    for text in texts:
        reader = HookReader(SpillReader(lambda mime: io.BytesIO()), logs)
        for at in range(0, len(text), size):
            reader.feed(text[at:at + size])
        documents.append(reader.close())
    return documents, bytes(shown)


def render(log, **rest):
    return json.dumps({"id": "x", "logs": log, **rest}, ensure_ascii=False, separators=(",", ":")).encode()


LOG = 'one\ntwo "quoted" \\ back\\\\\n\r 0%\r50%\x1b[0m é € 🙂 \\u0041 end\\'


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64, 100000])
def test_a_growing_log_is_shown_once(size):
    texts = [render(LOG[:end], status="processing") for end in range(0, len(LOG), 5)] + [render(LOG, output=[1])]
    documents, shown = read(texts, size)
    assert shown.decode() == LOG
    assert documents[-1] == {"id": "x", "logs": "", "output": [1]}


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(1, 9), st.booleans())
def test_any_log(log, size, ascii_only):
    text = json.dumps({"id": "x", "logs": log, "output": log}, ensure_ascii=ascii_only).encode()
    documents, shown = read([text], size)
    assert documents == [{"id": "x", "logs": "", "output": log}]
    if not ascii_only:
        assert shown.decode() == log


def test_the_log_of_an_older_runtime_is_left_out_and_not_shown():
    text = json.dumps({"input": {"logs": "kept"}, "output": {"logs": "kept"}, "started_at": "1", "completed_at": "2",
                       "logs": LOG, "status": "succeeded"}).encode()
    documents, shown = read([text], 10, wanted=False)
    assert shown == b""
    assert documents == [{**json.loads(text), "logs": ""}]


def test_a_big_log_is_not_held():
    log = "line of a log\n" * 300_000
    documents, shown = read([render(log, output="ok")], 1 << 16)
    assert shown.decode() == log and documents[0]["output"] == "ok"


@pytest.mark.parametrize("text", [b'{"id":"x","logs":"abc', b'{"id":"x","lo', b'{"id":"x","logs":"a"'])
def test_a_cut_response_is_an_error(text):
    with pytest.raises(StreamError):
        read([text], 4)


def test_responses_that_come_side_by_side_show_nothing_twice():
    shown = bytearray()
    logs = LogTail(shown.extend)
    logs.wanted = True
    log = "".join(f"{number}\n" for number in range(500))
    early, late = render(log[:900], status="processing"), render(log)
    first, second = (HookReader(SpillReader(lambda mime: io.BytesIO()), logs) for _ in range(2))
    for at in range(0, len(late), 100):
        first.feed(early[at:at + 100])
        second.feed(late[at:at + 100])
    first.close()
    second.close()
    assert shown.decode() == log


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64, 100000])
def test_the_log_is_found_wherever_it_stands(size):
    document = {"error": 'a "b" \\', "id": "x", "input": {"logs": "no", "a": ["logs", "]"]}, "logs": LOG, "metrics": {}}
    text = json.dumps(document, ensure_ascii=False).encode()
    documents, shown = read([text], size)
    assert documents == [{**document, "logs": ""}]
    assert shown.decode() == LOG


def test_what_only_looks_like_the_log_stays():
    document = {"a": "logs", "b": ["logs", "x"], "logs": None, "c": {"logs": "y"}}
    assert read([json.dumps(document).encode()], 3) == ([document], b"")


def test_a_success_with_an_error_is_a_failure():
    progress = Progress(print)
    progress.hook({"status": "succeeded", "error": "no such file", "output": None})
    assert progress.final == {"status": "failed", "error": "no such file", "output": None}


def test_events_and_responses_together_show_the_log_once_and_the_output_too():
    def render_event(name, **data):
        return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()

    shown, output = bytearray(), []
    progress = Progress(shown.extend)
    progress.logs.wanted, progress.show = True, output.extend
    events = EventReader(progress)
    events.feed(render_event("start", id="x") + render_event("log", data="one é\n", source="stdout"))
    events.feed(render_event("output", chunk="a", index=0) + render_event("log", data='"two"\n', source="stderr"))
    reader = HookReader(SpillReader(lambda mime: io.BytesIO()), progress.logs)
    reader.feed(render('one é\n"two"\nthree\n', output=["a", "b"], status="processing"))
    progress.hook(reader.close())
    assert progress.final is None
    events.feed(render_event("log", data="three\n") + render_event("output", chunk="b", index=1))
    assert not events.over
    events.feed(b'event: completed\ndata: {"logs": "one')
    assert events.over
    assert shown.decode() == 'one é\n"two"\nthree\n'
    assert output == ["a", "b"]


def test_events_that_were_left_out_are_told():
    with pytest.raises(StreamError, match="dropped"):
        EventReader(Progress(print)).feed(b'event: error\ndata: {"error":"events were dropped","skipped":3}\n\n')


def spoken_line(text, target="coglet::prediction", level="INFO"):
    fields = " \x1b[3mprediction_id\x1b[0m\x1b[2m=\x1b[0mx1 \x1b[3msource\x1b[0m\x1b[2m=\x1b[0mStdout\n"
    return (f"\x1b[2m2026-11-24T19:28:02.243032Z\x1b[0m \x1b[32m {level}\x1b[0m \x1b[2m{target}\x1b[0m\x1b[2m:\x1b[0m "
            + text + fields).encode()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, 1 << 20])
def test_what_a_prediction_prints_is_told_from_the_rest(size, monkeypatch):
    monkeypatch.setattr("cogpredict.SPOKEN_HELD", 200)
    long = "x" * 300
    data = (b"plain\n" + spoken_line("loading", "coglet::setup") + spoken_line("one\n  two")
            + spoken_line("late", level="WARN") + spoken_line(f"\\x1b[31mred {long}") + b"plain again\n"
            + spoken_line(long) + spoken_line("end"))
    log, spoken = RuntimeLog(), Spoken()
    shown = b"".join(log.feed(data[at:at + size], spoken.add) for at in range(0, len(data), size))
    assert shown.splitlines() == [b"plain", b"loading", b"late", b"plain again"]
    expected = f"one\n  two\n\x1b[31mred {long}\n{long}\nend\n".encode()
    assert spoken.count == count_black(expected)
    assert spoken.last(spoken.count).split() == expected.split()
    assert spoken.last(3).strip() == b"end"
    assert spoken.last(0) == b""
    spoken.close()


def test_the_runtimes_warning_of_a_name_that_models_use_is_not_shown():
    lines = ("/x/y.py:3: DeprecationWarning: P.predict() is deprecated; use run() instead",
             "  import coglet; coglet.server._run_worker()", "loading")
    data = b"".join(spoken_line(line, "coglet::setup") for line in lines)
    assert RuntimeLog().feed(data) == b"loading\n"


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_the_files_that_a_model_gave_are_noted_and_not_shown(size):
    def notice(path):
        fields = "".join(f" \x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m{value}" for name, value in (
            ("slot_id", "8a81"), ("filename", path), ("kind", "FileType")))
        return (f"\x1b[2m2026-11-24T19:28:02.243032Z\x1b[0m \x1b[34mDEBUG\x1b[0m \x1b[2mcoglet::orchestrator\x1b[0m"
                f"\x1b[2m:\x1b[0m FileOutput received{fields}\n").encode()

    data = b"one\n" + notice("/tmp/a b/c d.png") + b"two\n" + notice("e?.txt")
    log = RuntimeLog()
    assert b"".join(log.feed(data[at:at + size]) for at in range(0, len(data), size)) == b"one\ntwo\n"
    assert log.files == ["c d.png", "e?.txt"]


@given(st.lists(st.text("ab \n", max_size=30).map(str.encode), max_size=6), st.integers(0, 200), st.integers(0, 6))
def test_the_last_of_what_was_spoken(texts, count, turned):
    spoken = Spoken()
    for number, text in enumerate(texts):
        spoken.add(text)
        if number == turned:
            spoken.turn()
    kept = b"".join(texts)
    last = spoken.last(count)
    assert kept.endswith(last)
    assert count_black(last) == min(count, count_black(kept))
    spoken.turn()
    spoken.turn()
    assert spoken.last(5) == b"" and spoken.count == count_black(kept)
    spoken.close()
    spoken.add(b"more")
