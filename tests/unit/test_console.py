"""What reaches the terminal and what reaches a pipe."""
import fcntl
import os
import pty
import struct
import termios

import pytest

from cogpredict import Console, OutputError, collapse_returns, strip_controls


@pytest.fixture
def pipe():
    """A pipe's two ends: (read everything written so far, descriptor to write to)."""
    read, write = os.pipe()
    os.set_blocking(read, False)

    def drain():
        try:
            return os.read(read, 1 << 20)
        except BlockingIOError:
            return b""

    yield drain, write
    os.close(read)
    os.close(write)


@pytest.fixture
def terminal():
    """A terminal's two ends, as `pipe`."""
    leader, follower = pty.openpty()

    def drain():
        os.write(follower, b"\0the end\0")  # what was written before is there when this is
        read = b""
        while not read.endswith(b"\0the end\0"):
            read += os.read(leader, 1 << 20)
        return read[:-9].replace(b"\r\n", b"\n")

    yield drain, follower
    os.close(leader)
    os.close(follower)


def test_elsewhere_a_progress_bar_is_one_line(pipe):
    drain, err = pipe
    console = Console({}, err=err)
    for piece in (b"start\n\r 0%", b"|   |\r 50", b"%|## |\r100%|####|\n", b"end"):
        console.log(piece)
    assert drain() == b"start\n100%|####|\n"
    console.done()
    assert drain() == b"end\n"


def test_what_is_tried_twice_is_told_once(pipe):
    drain, write = pipe
    console = Console({}, err=write)
    for _ in range(2):
        console.warn("no GPU here")
        console.phase("Starting...")
        console.done()
    assert drain() == b"warning: no GPU here\nStarting...\n"


def test_our_own_line_never_lands_inside_a_log_line(pipe):
    drain, err = pipe
    console = Console({}, err=err)
    console.log(b"half of ")
    console.info("ours")
    console.log(b"a line\n")
    assert drain() == b"ours\nhalf of a line\n"


def test_lines_in_pieces_on_two_streams_are_not_mixed(pipe):
    drain, err = pipe
    console = Console({}, err=err)
    for stream, piece in [(1, b"out "), (2, b"err "), (1, b"1\nout"), (2, b"1\n"), (1, b" 2\nend")]:
        console.log(piece, stream)
    assert drain() == b"out 1\nerr 1\nout 2\n"
    console.log(b"last", 2)
    console.done()
    assert drain() == b"end\nlast\n"


def test_on_a_terminal_carriage_returns_stay(terminal):
    drain, err = terminal
    console = Console({"TERM": "xterm"}, err=err)
    console.log(b"\r 0%\r 50%\r100%\n")
    assert drain() == b"\r 0%\r 50%\r100%\n"


@pytest.mark.parametrize("cut", range(1, 9))
def test_a_cut_colour_survives_and_a_cut_attack_does_not(terminal, cut):
    drain, err = terminal
    console = Console({"TERM": "xterm"}, err=err)
    for data in (b"\x1b[31mred\n", b"\x1b]2;evil\x07\n"):
        console.log(data[:cut])
        console.log(data[cut:])
    assert drain() == b"\x1b[31mred\n]2;evil\n"


def test_the_live_line_is_gone_before_the_result(terminal):
    drain, err = terminal
    console = Console({"TERM": "xterm"}, err=err, out=err)
    console.phase("Running prediction...")
    assert b"Running prediction..." in drain()
    console.result(b"hello\n")
    assert drain() == b"\r\x1b[Jhello\n"


def test_the_live_line_leaves_text_alone_that_comes_bit_by_bit(terminal, monkeypatch):
    monkeypatch.setattr("cogpredict.REDRAW", 0.0)
    drain, both = terminal
    console = Console({"TERM": "xterm"}, err=both, out=both)
    console.phase("Running prediction...")
    console.result(b"one")
    assert drain().endswith(b"\r\x1b[Jone")
    console.status("a log line")
    assert drain() == b""
    console.result(b" two\n")
    assert drain() == b" two\n"
    console.tick()
    assert b"Running prediction..." in drain()


def test_text_that_comes_bit_by_bit_goes_on_where_it_was_and_a_log_line_is_one_of_its_own(terminal):
    drain, both = terminal
    console = Console({"TERM": "xterm"}, err=both, out=both, progress="plain")
    console.result(b"one")
    console.log(b"a log line\n")
    console.result(b" two")
    console.done()
    console.result(b" three")
    console.result(b"\n")
    console.error(OutputError("no"))
    console.result(b"four")
    console.error(OutputError("no"))
    error = b"\x1b[31merror: \x1b[0mno\n"
    assert drain() == b"one\na log line\n two three\n" + error + b"four\n" + error


def test_a_log_line_after_live_text_is_not_broken_where_its_colour_came_in_two_pieces(terminal):
    drain, both = terminal
    console = Console({"TERM": "xterm"}, err=both, out=both, progress="plain")
    console.log(b"\x1b[3")
    console.result(b"one")
    console.log(b"1mred\n")
    assert drain() == b"one\n\x1b[31mred\n"


def test_the_live_line_is_as_wide_as_the_terminal_under_it_wherever_stdout_goes(terminal, pipe):
    drain, err = terminal
    for columns in (40, 100):
        fcntl.ioctl(err, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        Console({"TERM": "xterm"}, err=err, out=pipe[1]).phase("x" * 200)
        assert drain() == b"\x1b[?7l" + b"x" * (columns - 1) + b"\x1b[?7h"


def test_phases_are_lines_on_a_pipe_and_nothing_when_quiet(pipe):
    drain, err = pipe
    Console({}, err=err).phase("Running prediction...")
    assert drain() == b"Running prediction...\n"
    for quiet in ({"quiet": True}, {"progress": "quiet"}):
        Console({}, err=err, **quiet).phase("Running prediction...")
        assert drain() == b""
    Console({}, err=err, quiet=True).error(OutputError("no", hint="yes"))
    assert drain() == b"error: no\nhint: yes\n"


def test_the_result_is_raw_on_a_pipe_and_harmless_on_a_terminal(pipe, terminal):
    evil = b"a\x1b[2J\x07b\n"
    Console({}, out=pipe[1]).result(evil)
    assert pipe[0]() == evil
    Console({}, out=terminal[1]).result(evil)
    assert terminal[0]() == b"a[2Jb\n"


def test_a_full_disk_under_stdout_is_an_output_error():
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full on this system")
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(OutputError, match="could not be written to stdout"):
            Console({}, out=full).result(b"x")
    finally:
        os.close(full)


def test_a_closed_stdout_is_a_broken_pipe_and_a_closed_stderr_is_nothing():
    read, write = os.pipe()
    os.close(read)
    Console({}, err=write).info("nobody reads this")
    with pytest.raises(BrokenPipeError):
        Console({}, out=write).result(b"x")
    os.close(write)


@pytest.mark.parametrize("data, kept", [
    (b"plain\ttext\r\n", b"plain\ttext\r\n"),
    (b"\x1b[1;31mbold\x1b[0m", b"\x1b[1;31mbold\x1b[0m"),
    (b"\x1b[A\x1b[2K\x1b]52;c;AAAA\x07", b"[A[2K]52;c;AAAA"),
    (b"\xc2\x9b2J caf\xc3\xa9", b"2J caf\xc3\xa9"),
    (b"\x00\x7f\x1b", b""),
])
def test_strip_controls(data, kept):
    assert strip_controls(data) == kept


def test_collapse_returns_leaves_plain_text_alone():
    data = b"a\nb\n" * 1000
    assert collapse_returns(data) is data


def test_a_served_models_streams_stay_apart_and_its_stdout_comes_byte_by_byte(pipe):
    drain, out = pipe
    read, err = os.pipe()
    console = Console({}, out=out, err=err)
    console.pass_on(b"50%\r\x1b[1mhalf a", 1)
    assert drain() == b"50%\r\x1b[1mhalf a"
    console.pass_on(b"to stderr\n", 2)
    assert os.read(read, 100) == b"to stderr\n" and drain() == b""
    os.close(read)
    os.close(err)


def test_a_served_model_goes_on_where_its_stdout_is_full_or_was_never_open():
    full, closed = os.open("/dev/full", os.O_WRONLY), os.open(os.devnull, os.O_RDONLY)
    for out in (full, closed):
        Console({}, out=out, err=closed).pass_on(b"said\n", 1)
        with pytest.raises(OutputError):
            Console({}, out=out, err=closed).result(b"said\n")
        os.close(out)


def test_a_reader_of_a_served_models_stdout_that_went_away_is_told_apart():
    read, write = os.pipe()
    os.close(read)
    with pytest.raises(BrokenPipeError):
        Console({}, out=write).pass_on(b"said\n", 1)
    os.close(write)


def test_our_line_after_half_a_line_of_a_served_model_is_a_line_of_its_own(terminal):
    drain, both = terminal
    console = Console({"TERM": "xterm"}, out=both, err=both)
    console.pass_on(b"half", 1)
    console.info("Serving")
    assert drain() == b"half\nServing\n"
