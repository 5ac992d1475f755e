"""SpillReader: whatever the pieces, the document is the one that json.loads would give, with files apart."""
from __future__ import annotations

import base64
import io
import json
import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cogpredict as cog

SIZES = [*range(1, 20), 64, 100, 255, 256, 257, 1000, 4096]
DATA = [bytes(range(256))[:size] * (1 if size < 300 else 5) for size in (0, 1, 2, 3, 4, 5, 100)] + [os.urandom(1000)]


def read(raw: bytes, size: int, limit: int = 1 << 20) -> Any:
    reader = cog.SpillReader(lambda mime: io.BytesIO(), limit)
    for start in range(0, len(raw), size):
        reader.feed(raw[start:start + size])
    return plain(reader.close())


def plain(value: Any) -> Any:
    if isinstance(value, cog.Blob):
        value.file.seek(0)
        data = value.file.read()
        assert len(data) == value.size
        return ("BLOB", value.mime, data)
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def url(data: bytes, mime: str = "image/png") -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def check(raw: str, expected: Any) -> None:
    for size in SIZES:
        assert read(raw.encode(), size) == expected, (size, raw[:200])


@pytest.mark.parametrize("data", DATA, ids=len)
def test_data_urls_become_blobs(data: bytes) -> None:
    blob = ("BLOB", "image/png", data)
    check(json.dumps({"output": url(data), "status": "succeeded"}), {"output": blob, "status": "succeeded"})
    check(json.dumps({"a": {"b": [{"c": url(data)}, "x"]}, "n": [1, 2.5, None]}),
          {"a": {"b": [{"c": blob}, "x"]}, "n": [1, 2.5, None]})
    check(json.dumps({"o": url(data, "text/plain;charset=utf-8")}), {"o": ("BLOB", "text/plain;charset=utf-8", data)})
    check(json.dumps({"o": url(data, "")}), {"o": ("BLOB", "", data)})


@pytest.mark.parametrize("data", DATA, ids=len)
def test_escapes_of_other_encoders(data: bytes) -> None:
    text = json.dumps({"output": [url(data)] * 3})
    expected = {"output": [("BLOB", "image/png", data)] * 3}
    check(text.replace("/", "\\/"), expected)
    check(text.replace("+", "\\u002B").replace("=", "\\u003d"), expected)


@pytest.mark.parametrize("data", DATA[:6], ids=len)
def test_keys_and_json_inside_json_stay_text(data: bytes) -> None:
    inner = json.dumps({"x": url(data), "y": "\\" + url(data)})
    blob = ("BLOB", "image/png", data)
    check(json.dumps({url(data): url(data)}), {url(data): blob})
    check(json.dumps({"o": inner, "p": url(data), "q": json.dumps(inner)}),
          {"o": inner, "p": blob, "q": json.dumps(inner)})
    check(json.dumps({"o": "\\", "p": url(data), "r": "\\" * 7 + '"', "s": [url(data)]}),
          {"o": "\\", "p": blob, "r": "\\" * 7 + '"', "s": [blob]})


@pytest.mark.parametrize("text", [
    "data:,hello", "data:text/plain,hello", "data:image/png;base64", "data:image/png;base64,not base64!",
    "data:image/png;base64,AAAA AAAA", "data:image/png;base64,AAA", "data:image/png;base64,A",
    "data:image/png;base64,====", "data:image/png;base64,AA=A", "data:image/png;base64,AAAA=",
    "data:image/png;base64,A===", "data:image/png;base64,AA==AAAA", "data:image/png;base64,AAAA\\u0041",
    "data:image/png;base64," + "QUJD" * 300 + "!" + "QUJD" * 300,
    "data:image/png;base64," + "QUJD" * 100 + '"quoted"\\back\n', "data:" + "x" * 400 + ";base64,AAAA",
    "see data:image/png;base64,AAAA", "DATA:image/png;base64,AAAA", "data:image/png;base64,\u00e9\U0001f600AAAA",
    "", '"', "\\", '\\"', '\\\\"', 'a"b\\"c\\\\', "\u20ac\U0001f600", "\ud83d", "/" * 10, "\\" * 33 + '"', "\n\t\x01",
])
def test_other_text_stays_text(text: str) -> None:
    check(json.dumps({"o": text, "p": [text], "k" + text: 1}), {"o": text, "p": [text], "k" + text: 1})
    if "\ud83d" not in text:
        check(json.dumps({"o": text}, ensure_ascii=False), {"o": text})


@pytest.mark.parametrize("raw", [
    "", "{", '{"a":', '"abc', '{"a":"data:;base64,AAAA', '{"a":"data:image/png;base64,AAA', "[1,]", '"\\', "[]", "1",
    '{"a":NaN}', '{"a":1e999}', '{"a":1}x', '{"a":"data:;base64,AAAA"', "[" * 5000, '{"a":' * 100000,
    '{"a": "data:;base64,AAAA""data:;base64,AAAA"}', '{"a": 1' + "0" * 5000 + "}", "<html>",
    '{"a":1}"data:', '{"a":1}"data', '{"a":1}"data:;base64,', '{"a":1}"data:;base64,AAAA',
])
@pytest.mark.parametrize("size", [1, 3, 64, 5000])
def test_a_cut_or_broken_document_is_a_stream_error(raw: str, size: int) -> None:
    if len(raw) > 10000 and size == 1:
        size = 1000
    with pytest.raises(cog.StreamError):
        read(raw.encode(), size)


def test_every_cut_is_found() -> None:
    raw = json.dumps({"output": [url(b"abcdefg"), "data:x", url(b"")], "s": "ok"}).encode()
    for end in range(len(raw)):
        with pytest.raises(cog.StreamError):
            read(raw[:end], 7)


def test_bytes_that_are_not_utf_8_are_a_stream_error() -> None:
    with pytest.raises(cog.StreamError):
        read(b'{"a":"\xff\xfe"}', 3)


def test_text_is_bounded_and_files_are_closed() -> None:
    files: list[io.BytesIO] = []

    def open_file(mime: str) -> io.BytesIO:
        files.append(io.BytesIO())
        return files[-1]

    reader = cog.SpillReader(open_file, 10000)
    reader.feed(b'{"big":"' + url(b"x" * 50000).encode() + b'","t":"')
    with pytest.raises(cog.StreamError, match="of text"):
        for _ in range(20):
            reader.feed(b"x" * 1000)
    assert files and all(file.closed for file in files)


def test_text_given_back_is_bounded_too() -> None:
    with pytest.raises(cog.StreamError, match="of text"):
        read(b'{"a":"data:;base64,' + b"AAAA" * 10000 + b'!"}', 1000, limit=10000)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=30) | st.binary(max_size=60)
    | st.sampled_from(['"data:', "data:;base64,", '\\"data:;base64,AA']),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=12)


def with_urls(value: Any) -> Any:
    if isinstance(value, bytes):
        return url(value)
    if isinstance(value, list):
        return [with_urls(item) for item in value]
    if isinstance(value, dict):
        return {key: with_urls(item) for key, item in value.items()}
    return value


def with_blobs(value: Any) -> Any:
    if isinstance(value, bytes):
        return ("BLOB", "image/png", value)
    if isinstance(value, str) and value == "data:;base64,":
        return ("BLOB", "", b"")
    if isinstance(value, list):
        return [with_blobs(item) for item in value]
    if isinstance(value, dict):
        return {key: with_blobs(item) for key, item in value.items()}
    return value


@settings(max_examples=150, deadline=None)
@given(value=values, size=st.integers(1, 600), ascii_only=st.booleans(), indent=st.sampled_from([None, 2]))
def test_any_document_in_any_pieces(value: Any, size: int, ascii_only: bool, indent: Any) -> None:
    document = {"value": value}
    raw = json.dumps(with_urls(document), ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass")
    assert read(raw, size) == with_blobs(document)

