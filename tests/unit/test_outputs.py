"""A response to stdout and files: every kind of output, every way to ask for it, and what a hostile model may send."""
from __future__ import annotations

import base64
import errno
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cogpredict as cog

ROOT = Path(__file__).resolve().parents[2]

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "inputs"
FILE = {"type": "string", "format": "uri"}
TEXT = {"type": "string"}
FILES = {"type": "array", "items": FILE}
CONCATENATE = {"type": "array", "items": TEXT, "x-cog-array-type": "iterator", "x-cog-array-display": "concatenate"}
AT = "http://127.0.0.1:20001/token/out/"


class Recorder:
    """A console that remembers."""

    def __init__(self) -> None:
        self.out, self.lines, self.warnings = b"", [], []

    def result(self, data: bytes) -> None:
        self.out += data

    def info(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def url(data: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


class Desk:
    """A folder in which results are delivered."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.console = folder, Recorder()

    def plan(self, output: str = "", *, schema: Any = None, as_json: bool = False) -> cog.OutputPlan:
        return cog.plan_output(output, as_json=as_json, schema=schema, cwd=str(self.folder), home=str(self.folder))

    def deliver(self, value: Any, output: str = "", *, schema: Any = None, as_json: bool = False, status: str = "",
                uploads: tuple[tuple[str, str, bytes], ...] = (), **more: Any) -> str:
        """Plan, upload, finish; what came to stdout."""
        plan = self.plan(output, schema=schema, as_json=as_json)
        with cog.OutputStore(plan, self.console, "run") as store:  # type: ignore[arg-type]
            for number, (name, mime, data) in enumerate(uploads):
                sink = store.open_upload(number, name, mime, len(data))
                sink.write(data)
                sink.close()
            store.finish({"status": status or "succeeded", "output": value, **more}, uploads_at=AT)
        return self.console.out.decode("utf-8", "surrogateescape")

    def files(self) -> dict[str, bytes]:
        return {str(path.relative_to(self.folder)): path.read_bytes()
                for path in self.folder.rglob("*") if path.is_file()}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


# One row per row of the reference's table of outputs.


def test_a_file_is_saved_with_its_extension(desk: Desk) -> None:
    assert desk.deliver(url(b"png", "image/png"), schema=FILE) == ""
    assert desk.files() == {"output.png": b"png"}
    assert desk.console.lines == ["Written output to: output.png"]


@pytest.mark.parametrize(("output", "name"), [
    ("x.jpg", "x.jpg"), ("x", "x.png"), ("v1.5", "v1.5.png"), ("@x.jpg", "x.jpg"), ("~/x", "x.png"),
    ("sub", "sub/output.png"), ("sub/", "sub/output.png"), ("sub/y.gif", "sub/y.gif"), (".hidden", ".hidden.png"),
])
def test_where_a_file_goes(desk: Desk, output: str, name: str) -> None:
    (desk.folder / "sub").mkdir()
    assert desk.deliver(url(b"png", "image/png"), output, schema=FILE) == ""
    assert desk.files() == {name: b"png"}


@pytest.mark.parametrize(("mime", "name"), [
    ("text/plain", "output.txt"), ("None", "output.bin"), ("image/jpeg", "output.jpg"), ("x/y", "output"),
    ("application/octet-stream", "output.bin"), ("image/webp; q=1", "output.webp"), ("", "output.bin"),
    ("../../etc", "output"), ("audio/mpeg", "output.mp3"), ("video/mp4", "output.mp4"),
])
def test_extension_by_mime_type(desk: Desk, mime: str, name: str) -> None:
    desk.deliver(url(b"x", mime), schema=FILE)
    assert desk.files() == {name: b"x"}


def test_a_list_of_files_is_numbered(desk: Desk) -> None:
    assert desk.deliver([url(b"a", "text/plain"), url(b"b", "image/png")], schema=FILES) == ""
    assert desk.files() == {"output.0.txt": b"a", "output.1.png": b"b"}
    assert desk.console.lines == ["Written output to: output.0.txt", "Written output to: output.1.png"]


def test_a_list_of_files_under_a_name(desk: Desk) -> None:
    desk.deliver([url(b"a", "text/plain"), url(b"b", "image/png")], "x.png", schema=FILES)
    assert desk.files() == {"x.0.png": b"a", "x.1.png": b"b"}


def test_a_string_is_raw(desk: Desk) -> None:
    assert desk.deliver("a <b> & é\n", schema=TEXT) == "a <b> & é\n\n"
    assert desk.files() == {}


def test_a_string_to_a_file_is_exact(desk: Desk) -> None:
    assert desk.deliver("text", "x.md", schema=TEXT) == ""
    assert desk.files() == {"x.md": b"text"}
    assert desk.console.lines == ["Written output to: x.md"]


def test_a_string_that_is_a_data_url_stays_one_where_the_schema_says_string(desk: Desk) -> None:
    blob = url(b"png", "image/png")
    assert desk.deliver(blob, schema=TEXT) == blob + "\n"
    assert desk.files() == {}


@pytest.mark.parametrize(("value", "shown"), [
    (5, "5\n"), (1.5, "1.5\n"), (True, "true\n"), (2**70, f"{2**70}\n"), ([], "[]\n"), ({}, "{}\n"),
    ({"z": 1, "a": "<é>&"}, '{\n  "z": 1,\n  "a": "<é>&"\n}\n'), (["a"], '[\n  "a"\n]\n'),
    ({"s": "\ud83d"}, '{\n  "s": "\\ud83d"\n}\n'),
])
def test_the_rest_is_json(desk: Desk, value: Any, shown: str) -> None:
    assert desk.deliver(value, schema={"type": "object"}) == shown
    assert Desk(desk.folder).deliver(value) == shown


def test_json_to_a_file(desk: Desk) -> None:
    assert desk.deliver({"b": 1}, "x.json", schema={"type": "object"}) == ""
    assert desk.files() == {"x.json": b'{\n  "b": 1\n}\n'}


def test_a_string_where_the_schema_has_no_string_is_json(desk: Desk) -> None:
    assert desk.deliver("x", schema={"type": "object"}) == '"x"\n'


def test_nothing(desk: Desk) -> None:
    assert desk.deliver(None, schema=TEXT) == ""
    assert desk.console.warnings == ["No output generated"]


def test_a_concatenate_iterator_is_text(desk: Desk) -> None:
    assert desk.deliver(["a", "b\n", "c"], schema=CONCATENATE) == "ab\nc\n"
    Desk(desk.folder).deliver(["a", "b"], "x.txt", schema=CONCATENATE)
    assert desk.files() == {"x.txt": b"ab"}


def test_another_iterator_is_a_list(desk: Desk) -> None:
    schema = {"type": "array", "items": TEXT, "x-cog-array-type": "iterator"}
    assert json.loads(desk.deliver(["a", "b"], schema=schema)) == ["a", "b"]


@pytest.mark.parametrize("target", ["", "-"])
def test_live_text_is_the_same_as_whole_text(desk: Desk, target: str) -> None:
    plan = desk.plan(target, schema=CONCATENATE)
    assert plan.live
    live = cog.LiveText(desk.console)  # type: ignore[arg-type]
    with cog.OutputStore(plan, desk.console, "run") as store:  # type: ignore[arg-type]
        live.feed(["a", "b"])
        assert desk.console.out == b"ab"
        store.finish({"status": "succeeded", "output": ["a", "b", "c"]}, live=live)
    assert desk.console.out == b"abc\n"


@pytest.mark.parametrize("given, expected", [
    (["a.txt", "b.txt", "a.txt"], [b"1", b"0", b"2"]),  # two of one name: as they came
    (["a.txt", "a.txt", "b?c.txt"], [b"2", b"0", b"1"]),  # other names than those that came
    (["a.txt", "b.txt"], [b"2", b"0", b"1"]),
    ([], [b"2", b"0", b"1"]),
])
def test_uploads_that_are_listed_as_they_ended(desk: Desk, given: list[str], expected: list[bytes]) -> None:
    store = cog.OutputStore(desk.plan(schema=FILES), desk.console, "run")  # type: ignore[arg-type]
    for number, name in enumerate(("b.txt", "a.txt", "a.txt")):
        sink = store.open_upload(number, name, "text/plain", 1)
        sink.write(b"%d" % number)
        sink.close()
    store.finish({"status": "succeeded", "output": [AT + "2/a.txt", AT + "0/b.txt", AT + "1/a.txt"]}, uploads_at=AT,
                 given=given)
    assert [desk.files()[f"output.{number}.txt"] for number in range(3)] == expected


def test_a_name_that_its_url_cut_off_is_known(desk: Desk) -> None:
    store = cog.OutputStore(desk.plan(schema=FILES), desk.console, "run")  # type: ignore[arg-type]
    for number, name in enumerate(("we", "a b.txt")):
        store.open_upload(number, name, "text/plain", 0).close()
    store.finish({"status": "succeeded", "output": [AT + "0/we", AT + "1/a%20b.txt"]}, uploads_at=AT,
                 given=["a b.txt", "we?ird#n.txt"])
    assert sorted(desk.files()) == ["output.0.txt", "output.1.txt"]


def test_live_text_stays_after_a_failure(desk: Desk) -> None:
    live = cog.LiveText(desk.console)  # type: ignore[arg-type]
    store = cog.OutputStore(desk.plan(schema=CONCATENATE), desk.console, "run")  # type: ignore[arg-type]
    live.feed(["a"])
    with pytest.raises(cog.PredictionFailed):
        store.finish({"status": "failed", "output": None, "error": "boom"}, live=live)
    assert desk.console.out == b"a\n"


def test_live_text_that_the_response_does_not_repeat(desk: Desk) -> None:
    live = cog.LiveText(desk.console)  # type: ignore[arg-type]
    store = cog.OutputStore(desk.plan(schema=CONCATENATE), desk.console, "run")  # type: ignore[arg-type]
    live.feed(["a"])
    store.finish({"status": "succeeded", "output": None}, live=live)
    assert (desk.console.out, desk.console.warnings) == (b"a\n", [])


def test_live_text_of_no_pieces(desk: Desk) -> None:
    for status, shown in (("succeeded", b"\n"), ("failed", b"")):
        console = Recorder()
        live = cog.LiveText(console)  # type: ignore[arg-type]
        store = cog.OutputStore(desk.plan(schema=CONCATENATE), console, "run")  # type: ignore[arg-type]
        try:
            store.finish({"status": status, "output": []}, live=live)
        except cog.PredictionFailed:
            pass
        assert console.out == shown


def test_live_is_only_for_stdout_and_text(desk: Desk) -> None:
    assert not desk.plan("x", schema=CONCATENATE).live
    assert not desk.plan(schema=CONCATENATE, as_json=True).live
    assert not desk.plan(schema=TEXT).live


# --json


def test_report(desk: Desk) -> None:
    shown = desk.deliver({"b": 2**64, "a": "é"}, as_json=True, metrics={"predict_time": 0.1}, logs="x", id="1")
    assert shown == ('{\n  "status": "succeeded",\n  "output": {\n    "b": 18446744073709551616,\n    "a": "é"\n  },\n'
                     '  "error": null,\n  "metrics": {\n    "predict_time": 0.1\n  }\n}\n')


def test_report_with_files(desk: Desk) -> None:
    shown = json.loads(desk.deliver(url(b"x", "image/png"), schema=FILE, as_json=True))
    assert shown == {"status": "succeeded", "output": "output.png", "error": None}
    assert desk.files() == {"output.png": b"x"}


def test_report_into_a_file_beside_its_files(desk: Desk) -> None:
    assert desk.deliver(url(b"{}", "application/json"), "r.json", schema=FILE, as_json=True) == ""
    assert sorted(desk.files()) == ["r-2.json", "r.json"]
    assert json.loads(desk.files()["r.json"])["output"] == "r-2.json"


def test_report_into_a_folder(desk: Desk) -> None:
    (desk.folder / "d").mkdir()
    desk.deliver(url(b"x", "image/png"), "d", schema=FILE, as_json=True)
    assert sorted(desk.files()) == ["d/output.json", "d/output.png"]
    assert json.loads(desk.files()["d/output.json"])["output"] == "d/output.png"


def test_report_into_an_odd_name_warns(desk: Desk) -> None:
    desk.deliver(1, "x.txt", as_json=True)
    assert desk.console.warnings == ["--output value does not have a .json suffix: x.txt"]
    assert sorted(desk.files()) == ["x.txt"]


def test_report_of_a_failure(desk: Desk) -> None:
    with pytest.raises(cog.PredictionFailed, match='^Prediction failed with status "failed": boom$') as caught:
        desk.deliver(None, as_json=True, status="failed", error="boom")
    assert caught.value.exit_code == 1
    assert json.loads(desk.console.out) == {"status": "failed", "output": None, "error": "boom"}


def test_a_failure_prints_nothing(desk: Desk) -> None:
    with pytest.raises(cog.PredictionFailed, match='^Prediction failed with status "canceled"$'):
        desk.deliver("partial", status="canceled", schema=TEXT)
    assert desk.console.out == b""


# Files at any depth.


def test_files_inside_objects(desk: Desk) -> None:
    schema = {"type": "object", "properties": {"text": TEXT, "img": FILE, "more": FILES,
                                               "sub": {"type": "object", "properties": {"a": FILE}}}}
    shown = desk.deliver({"text": "t", "img": url(b"1", "image/png"), "more": [url(b"2", "text/plain")],
                          "sub": {"a": url(b"3", "text/css")}, "opt": None}, schema=schema)
    assert json.loads(shown) == {"text": "t", "img": "output.img.png", "more": ["output.more.0.txt"],
                                 "sub": {"a": "output.sub.a.css"}, "opt": None}
    assert desk.files() == {"output.img.png": b"1", "output.more.0.txt": b"2", "output.sub.a.css": b"3"}


def test_files_in_opaque_objects(desk: Desk) -> None:
    shown = desk.deliver({"a": [[url(b"1", "image/png")]], "b": "data: a, b"}, "r.json", schema={"type": "object"})
    assert shown == "" and json.loads(desk.files()["r.json"]) == {"a": [["r.a.0.0.png"]], "b": "data: a, b"}
    assert desk.files()["r.a.0.0.png"] == b"1"


def test_a_plain_data_url_is_a_file_where_the_schema_says_so(desk: Desk) -> None:
    desk.deliver("data:text/css,x%20y", schema=FILE)
    assert desk.files() == {"output.css": b"x y"}


def test_more_files_than_a_process_may_open(desk: Desk) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 90, limits[1]))
    try:
        desk.deliver([AT + f"{number}/x.txt" for number in range(150)], schema=FILES,
                     uploads=tuple(("x.txt", "text/plain", b"x") for _ in range(150)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(desk.files()) == 150


def test_uploads_are_found_by_their_number(desk: Desk) -> None:
    uploads = (("0.png", "image/png", b"zero"), ("0.png", "image/png", b"one"))
    assert desk.deliver([AT + "1/0.png", AT + "0/0.png"], schema=FILES, uploads=uploads) == ""
    assert desk.files() == {"output.0.png": b"one", "output.1.png": b"zero"}


def test_an_upload_counts_even_where_the_schema_has_a_string(desk: Desk) -> None:
    desk.deliver(AT + "0/x.txt", schema=TEXT, uploads=(("x.txt", "text/plain", b"x"),))
    assert desk.files() == {"output.txt": b"x"}


def test_an_upload_that_is_named_twice(desk: Desk) -> None:
    desk.deliver([AT + "0/x", AT + "0/x"], schema=FILES, uploads=(("x.txt", "text/plain", b"x"),))
    assert desk.files() == {"output.0.txt": b"x", "output.1.txt": b"x"}


@pytest.mark.parametrize("tail", ["7/x", "x", "", "-1/x", "0" * 5000])
def test_an_upload_that_never_came(desk: Desk, tail: str) -> None:
    with pytest.raises(cog.StreamError):
        desk.deliver([AT + tail], schema=FILES)
    assert desk.files() == {}


def test_an_upload_that_was_not_finished(desk: Desk) -> None:
    store = cog.OutputStore(desk.plan(schema=FILE), desk.console, "run")  # type: ignore[arg-type]
    sink = store.open_upload(0, "x", "text/plain", 10)
    sink.write(b"12345")
    with pytest.raises(cog.StreamError, match="10 bytes"):
        sink.close()
    with pytest.raises(cog.StreamError):
        store.finish({"status": "succeeded", "output": AT + "0/x"}, uploads_at=AT)
    store.close()
    assert desk.files() == {}


def test_a_failed_report_may_name_uploads_that_never_came(desk: Desk) -> None:
    with pytest.raises(cog.PredictionFailed):
        desk.deliver([AT + "0/x", AT + "1/x"], as_json=True, status="failed", schema=FILES,
                     uploads=(("x.txt", "text/plain", b"x"),))
    assert json.loads(desk.console.out)["output"] == ["output.0.txt", AT + "1/x"]


def test_spilled_blobs(desk: Desk) -> None:
    schema = {"type": "object", "properties": {"f": FILE, "t": TEXT}}
    with cog.OutputStore(desk.plan(schema=schema), desk.console, "run") as store:  # type: ignore[arg-type]
        reader = cog.SpillReader(store.open_blob)
        text = url(b"text", "text/plain")
        reader.feed(json.dumps({"status": "succeeded", "output": {"f": url(b"f" * 9999, "image/gif"), "t": text,
                                                                  "bad": "data:a/b;base64,AAAA!"}}).encode())
        store.finish(reader.close())
    assert json.loads(desk.console.out) == {"f": "output.f.gif", "t": text, "bad": "data:a/b;base64,AAAA!"}
    assert desk.files() == {"output.f.gif": b"f" * 9999}


def test_a_url_of_elsewhere_is_printed(desk: Desk) -> None:
    assert desk.deliver("https://example.com/x.png", schema=FILE) == "https://example.com/x.png\n"
    assert desk.files() == {}


# stdout and devices


def test_a_file_to_stdout(desk: Desk) -> None:
    assert desk.deliver(url(b"\x00\x01raw", "image/png"), "-", schema=FILE) == "\x00\x01raw"
    assert desk.files() == {}


def test_an_upload_to_stdout(desk: Desk) -> None:
    assert desk.deliver(AT + "0/x", "-", schema=FILE, uploads=(("x", "", b"y" * 600000),)) == "y" * 600000
    assert desk.files() == {}


def test_several_files_do_not_fit_stdout(desk: Desk) -> None:
    with pytest.raises(cog.UsageError, match="room for one|several"):
        desk.plan("-", schema=FILES)
    assert desk.plan("-", schema=FILES, as_json=True).name == ""


def test_several_files_from_an_unknown_schema_are_saved(desk: Desk) -> None:
    desk.deliver([url(b"1", "image/png"), AT + "0/x"], "-", uploads=(("x.txt", "text/plain", b"2"),))
    assert desk.files() == {"output.0.png": b"1", "output.1.txt": b"2"}


def test_a_device_is_written_to_and_not_replaced(desk: Desk) -> None:
    assert desk.deliver(url(b"x", "image/png"), "/dev/null", schema=FILE) == ""
    assert desk.deliver("text", "/dev/null", schema=TEXT) == ""
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert desk.files() == {}


def test_a_pipe_is_written_to(desk: Desk) -> None:
    fifo = desk.folder / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    desk.deliver(url(b"through", "image/png"), "fifo", schema=FILE)
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert stat.S_ISFIFO(os.stat(fifo).st_mode)


def test_a_full_device_is_an_output_error(desk: Desk) -> None:
    with pytest.raises(cog.OutputError, match="cannot write /dev/full: no space left on device"):
        desk.deliver("text", "/dev/full", schema=TEXT)


# Refused before anything starts.


@pytest.mark.parametrize("schema", [FILE, TEXT, None])
def test_no_such_folder(desk: Desk, schema: Any) -> None:
    for flag, named in (("no/x.png", "no"), ("no/deep/x", "no/deep"), ("no/", "no")):
        with pytest.raises(cog.OutputError,
                           match=f"^Output path is not writable: Output directory is not writable: {named}$") as caught:
            desk.plan(flag, schema=schema)
        assert caught.value.exit_code == 7


def test_a_folder_that_cannot_be_written(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    (desk.folder / "d").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    for flag in ("d", "d/x", "x"):
        with pytest.raises(cog.OutputError, match="^Output path is not writable"):
            desk.plan(flag, schema=FILE)
    with pytest.raises(cog.OutputError):
        desk.plan("", schema=FILE)
    desk.plan("", schema=TEXT)


def test_the_default_name_is_a_folder(desk: Desk) -> None:
    (desk.folder / "output").mkdir()
    message = 'Default output name "output" conflicts with directory, provide --output'
    for schema in (FILE, FILES, {"type": "object", "properties": {"a": FILE}}):
        for as_json in (False, True):
            with pytest.raises(cog.OutputError, match=message):
                desk.plan(schema=schema, as_json=as_json)
    assert desk.deliver("x", schema=TEXT) == "x\n"
    desk.deliver(url(b"x", "image/png"), "output", schema=FILE)
    assert desk.files() == {"output/output.png": b"x"}


# Whole or not at all, and never elsewhere.


def test_an_old_file_is_replaced_at_once_with_the_users_umask(desk: Desk) -> None:
    (desk.folder / "output.png").write_bytes(b"old")
    os.umask(0o027)
    desk.deliver(url(b"new", "image/png"), schema=FILE)
    assert desk.files() == {"output.png": b"new"}
    assert stat.S_IMODE((desk.folder / "output.png").stat().st_mode) == 0o640


def test_a_link_is_replaced_and_not_followed(desk: Desk) -> None:
    (desk.folder / "victim").write_bytes(b"old")
    (desk.folder / "output.png").symlink_to("victim")
    desk.deliver(url(b"new", "image/png"), schema=FILE)
    assert not (desk.folder / "output.png").is_symlink()
    assert desk.files() == {"output.png": b"new", "victim": b"old"}


def test_nothing_is_left_of_files_that_were_not_used(desk: Desk) -> None:
    with pytest.raises(cog.PredictionFailed):
        desk.deliver(None, status="failed", schema=FILE, uploads=(("x.png", "image/png", b"x" * 100),))
    assert desk.files() == {}


def no_unnamed_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "O_TMPFILE", raising=False)


def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no links here")
    monkeypatch.setattr(os, "link", refuse)


def no_unnamed_files_on_this_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: Any, flags: int, *more: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "not here")
        return real(path, flags, *more)
    monkeypatch.setattr(os, "open", refuse)


WRITER = """
import os, sys
del os.O_TMPFILE
import cogpredict as cog
plan = cog.plan_output("", as_json=False, schema={"type": "string", "format": "uri"}, cwd=sys.argv[1], home="/")
store = cog.OutputStore(plan, cog.Console({}), "run")
store.open_upload(0, "a.png", "image/png", None).write(b"half a picture")
print("written", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="no system without unnamed files need be played")
def test_a_killed_run_leaves_no_hidden_file(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"written\n"
        assert [path.name for path in tmp_path.iterdir()] == [".cog-run-0.part"]
        writer.kill()
    deadline = time.monotonic() + 10
    while list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("poor", [no_unnamed_files, no_links, no_unnamed_files_on_this_disk])
def test_poorer_systems(desk: Desk, monkeypatch: pytest.MonkeyPatch, poor: Callable[[Any], None]) -> None:
    poor(monkeypatch)
    (desk.folder / "output.0.png").write_bytes(b"old")
    uploads = (("a.png", "image/png", b"a" * 300000), ("b.png", "image/png", b"b"))
    plan = desk.plan(schema=FILES)
    with cog.OutputStore(plan, desk.console, "run") as store:  # type: ignore[arg-type]
        sinks = [store.open_upload(number, name, mime, None) for number, (name, mime, _) in enumerate(uploads)]
        for sink, (_, _, data) in zip(sinks, uploads):
            sink.write(data)
            sink.close()
        hidden = sorted(name for name in os.listdir(desk.folder) if name.startswith(".cog"))
        assert hidden in ([], [".cog-run-0.part", ".cog-run-1.part"])
        store.finish({"status": "succeeded", "output": [AT + "0/a.png", AT + "0/a.png"]}, uploads_at=AT)
    assert desk.files() == {"output.0.png": b"a" * 300000, "output.1.png": b"a" * 300000}


def test_a_full_disk_names_the_file(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    budget = [100]

    def short(descriptor: int, data: Any) -> int:
        if budget[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = real(descriptor, data[:min(len(data), budget[0], 7)])
        budget[0] -= written
        return written

    store = cog.OutputStore(desk.plan(schema=FILE), desk.console, "run")  # type: ignore[arg-type]
    sink = store.open_upload(0, "x.png", "image/png", None)
    monkeypatch.setattr(os, "write", short)
    with pytest.raises(cog.OutputError, match="^cannot write output.png: no space left on device$") as caught:
        for _ in range(100):
            sink.write(b"0123456789")
    monkeypatch.undo()
    assert caught.value.exit_code == 7 and caught.value.hint
    store.close()
    assert desk.files() == {}


def test_a_folder_that_vanishes(desk: Desk) -> None:
    folder = desk.folder / "d"
    folder.mkdir()
    store = cog.OutputStore(desk.plan("d/x", schema=FILE), desk.console, "run")  # type: ignore[arg-type]
    sink = store.open_upload(0, "x.png", "image/png", 1)
    sink.write(b"x")
    sink.close()
    folder.rmdir()
    with pytest.raises(cog.OutputError, match="cannot write d/x.png"):
        store.finish({"status": "succeeded", "output": AT + "0/x.png"}, uploads_at=AT)
    with pytest.raises(cog.OutputError):
        store.open_blob("image/png")
    store.close()


def test_a_folder_stands_where_a_file_goes(desk: Desk) -> None:
    (desk.folder / "output.png").mkdir()
    with pytest.raises(cog.OutputError, match="cannot write output.png"):
        desk.deliver(url(b"x", "image/png"), schema=FILE)
    assert os.listdir(desk.folder) == ["output.png"]


@pytest.mark.parametrize("name", [
    "../../etc/passwd", "/etc/x.sh\x00", "a/../b.png", "x.\x1b[2J", "." * 50, "x." + "y" * 99, "", "a" * 300,
])
@pytest.mark.parametrize("mime", ["../x", "image/../../png", "a/b;c=../..", "\x1b]0;", "application/octet-stream"])
def test_hostile_names(desk: Desk, name: str, mime: str) -> None:
    desk.deliver({name: AT + "0/x"}, schema={"type": "object"}, uploads=((name, mime, b"x"),))
    assert len(desk.files()) == 1
    for written in os.listdir(desk.folder):
        assert written.startswith("output.") and all(c.isalnum() or c in "._-" for c in written)


def test_fields_that_look_alike_keep_their_own_files(desk: Desk) -> None:
    shown = desk.deliver({"a/b": url(b"1", "image/png"), "a_b": url(b"2", "image/png"), "A_B": url(b"3", "image/png")})
    assert json.loads(shown) == {"a/b": "output.a_b.png", "a_b": "output.a_b-2.png", "A_B": "output.A_B-3.png"}
    assert sorted(desk.files().values()) == [b"1", b"2", b"3"]


def test_deep_nesting_is_no_crash(desk: Desk) -> None:
    value: Any = 1
    for _ in range(990):
        value = [value]
    with pytest.raises(cog.StreamError, match="nested too deeply"):
        desk.deliver(value)


def test_a_killed_process_leaves_nothing(desk: Desk) -> None:
    child = os.fork()
    if child == 0:
        store = cog.OutputStore(desk.plan(schema=FILE), desk.console, "run")  # type: ignore[arg-type]
        store.open_upload(0, "x.png", "image/png", None).write(b"x" * 100000)
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert os.listdir(desk.folder) == []


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=10)


@given(value=VALUES.filter(lambda value: value is not None))
def test_any_value_is_shown_exactly(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    desk = Desk(tmp_path_factory.getbasetemp())
    shown = desk.deliver(value, schema={"type": "array"})
    assert json.dumps(json.loads(shown)) == json.dumps(value)


@given(st.text(), st.text())
def test_an_extension_is_a_few_letters(mime: str, name: str) -> None:
    extension = cog.safe_extension(mime, name)
    assert len(extension) < 18
    assert extension == "" or (extension[0] == "." and extension[1:].replace("_", "a").isalnum())


# Documents of every runtime.


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("openapi-*.json")), ids=lambda path: path.stem)
def test_output_schema_of_every_runtime(path: Path) -> None:
    assert cog.output_schema(json.loads(path.read_text())) == {"type": "string"}


def document(output: Any, **components: Any) -> Any:
    return {"components": {"schemas": {"Output": output, **components}}}


def test_output_schema_with_references() -> None:
    out = {"type": "object", "properties": {"i": {"$ref": "#/components/schemas/In"}, "f": {"allOf": [FILE]}}}
    found = cog.output_schema(document({"$ref": "#/components/schemas/Out"}, Out=out, In={"type": "integer"}))
    assert found == {"type": "object", "properties": {"i": {"type": "integer"}, "f": FILE}}
    assert cog.holds_files(found)


def test_output_schema_of_training() -> None:
    found = cog.output_schema(document(TEXT, TrainingOutput={"type": "object", "properties": {"weights": FILE}}),
                              training=True)
    assert found is not None and cog.holds_files(found)


@pytest.mark.parametrize("broken", [None, [], {}, {"components": 1}, {"components": {"schemas": {"Output": 3}}}])
def test_no_output_schema(broken: Any) -> None:
    assert cog.output_schema(broken) is None


def test_recorded_output_schemas_are_read() -> None:
    assert cog.output_schema(document({"title": "Output"})) == {}
    assert cog.output_schema(document({"title": "Output", "type": "null"})) == {"type": "null"}
    assert cog.output_schema(document(CONCATENATE)) == CONCATENATE
    assert cog.is_text_stream(cog.output_schema(document(CONCATENATE)))
