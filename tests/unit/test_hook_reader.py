"""A response's log goes its own way, whatever its length and wherever the bytes are cut."""
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogpredict import HookReader, LogTail, SpillReader, StreamError


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
