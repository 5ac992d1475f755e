#!/usr/bin/env python3
"""Ends a program at every moment of its run and tells what is left two seconds later; wanted: nothing.

    python3 tests/bench/kill.py [OPTION]... -- WORD...

WORD... is the whole command, such as cog.pyz predict cog-test/slow:0.23.1 -i seconds=60; {port} in it is a free port,
which has to be free again afterwards. It runs with an empty TMPDIR, in an empty folder or a copy of one.

    --step MS --from MS --kills N   the moments: N of them, MS apart; default 100, 100 and 20
    --signals NAME,...              taken in turns; default KILL,INT,TERM,HUP,INT+INT: two 50 ms apart
    --terminal                      on a pseudo-terminal of its own, where INT is the key
    --folder FOLDER [--keep]        what is copied for each run; with --keep once for all of them
    --then COMMAND                  what a shell runs there after each end, and has to succeed within 60 seconds
    --may NAME[=SIZE]               a file that may be in the folder afterwards, whole
    --stdin FILE                    what it reads; default: a pipe to which nobody writes
    --show                          what it said, after each end
"""
from __future__ import annotations

import argparse
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import threading
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from engines.api import Engine  # noqa: E402

PATIENCE = 20  # seconds that a program gets to end


class End(NamedTuple):
    """How a run ended."""

    pid: int
    status: int  # as Popen has it
    seconds: float  # after the first signal
    said: bytes  # after the first signal
    last: str  # of all lines
    traceback: str
    terminal: bool  # whether the terminal is as it was


def list_containers(engine: Engine, pid: int) -> list[str]:
    """The containers that are there for a process."""
    left = []
    for found in engine.call("GET", "/containers/json", {"all": 1, "filters": '{"label":["cog.pyz.client"]}'}):
        if found["Labels"]["cog.pyz.client"].split()[2:3] == [str(pid)]:
            left.append(f"container {found['State']}")
    return left


def list_half_made(engine: Engine) -> set[str]:
    """The images without a name, or with one that is given only for a moment."""
    return {image["Id"] for image in engine.call("GET", "/images/json")
            if not image.get("RepoTags") or any(":unlabelled" in tag or tag == "<none>:<none>" and not
                                                image.get("RepoDigests") for tag in image["RepoTags"])}


def list_processes(mark: str, folder: str) -> list[str]:
    """The processes with a mark in their environment, or a folder in their command line."""
    left = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            if words and (mark.encode() in (entry / "environ").read_bytes() or folder.encode() in words):
                left.append(f"process {words[:120].replace(bytes(1), b' ').decode()}")
        except OSError:
            pass  # it is gone
    return left


def list_files(folder: Path) -> dict[str, int]:
    """Names and sizes of the files below a folder; of an environment only whether it is whole."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if "/lib/" not in name and "/bin/" not in name and not path.is_dir():
            found[name] = path.lstat().st_size
    return found


def is_half_made(folder: Path, name: str) -> bool:
    """Whether a file in a project's .cog is not there for long, or of an environment that was never finished."""
    parts = name.split("/")
    return name.endswith((".part", ".new")) or (
        len(parts) > 2 and parts[1].startswith("venv") and not (folder / parts[0] / parts[1] / "cog.json").exists())


def start(command: list[str], folder: Path, environ: dict[str, str], stdin: str, out: int,
          terminal: int) -> subprocess.Popen[bytes]:
    """The program, in the foreground of the terminal, if there is one, as a shell starts it."""
    if terminal < 0:
        return subprocess.Popen(command, cwd=folder, env=environ, stdout=out, stderr=out, start_new_session=True,
                                stdin=open(stdin, "rb") if stdin else subprocess.PIPE)  # noqa: SIM115
    leader = "import os,sys,fcntl,termios,signal as s\nos.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n" \
        "s.signal(s.SIGTTOU, s.SIG_IGN)\np = os.fork()\nif not p:\n os.setpgid(0, 0); os.tcsetpgrp(0, os.getpid())\n" \
        " s.signal(s.SIGTTOU, s.SIG_DFL); os.close(9); os.execvp(sys.argv[1], sys.argv[1:])\n" \
        "s.signal(s.SIGINT, s.SIG_IGN); os.write(9, b'%d\\n' % p); r = os.waitpid(p, 0)[1]\n" \
        "os.tcsetpgrp(0, os.getpgrp()); os.write(9, b'%d\\n' % r); s.pause()\n"
    os.dup2(out, 9)
    return subprocess.Popen([sys.executable, "-ISc", leader, *command], cwd=folder, env=environ, stdin=terminal,
                            stdout=terminal, stderr=terminal, pass_fds=[9])


def read_traceback(said: bytes) -> str:
    """What there is to say of a traceback in what a program said; Python's own start shows one for a Ctrl-C."""
    if b"Traceback" not in said and b"a bug in" not in said:
        return ""
    return "a traceback" if b"cog.pyz/" in said or b"cogpredict" in said else "Python had not begun with the program"


def end_at(moment: float, name: str, command: list[str], folder: Path, environ: dict[str, str],
           options: argparse.Namespace) -> End:
    """Run the program and send the signal after so many seconds."""
    read, write = os.pipe()
    near, far = pty.openpty() if options.terminal else (-1, -1)
    before = termios.tcgetattr(far) if options.terminal else []
    child = start(command, folder, environ, options.stdin, write, far)
    said, told = bytearray(), open(read, "rb", buffering=0)  # noqa: SIM115
    pid = int(told.readline()) if options.terminal else child.pid

    def listen() -> None:
        try:
            while data := os.read(near, 1 << 16) if options.terminal else told.read(1 << 16):
                said.extend(data)
        except OSError:
            pass

    listener = threading.Thread(target=listen, daemon=True)
    os.close(write)
    listener.start()
    if options.terminal:
        os.close(9)
    time.sleep(moment)
    heard, began = len(said), time.monotonic()
    for each in name.split("+"):
        if options.terminal and each == "INT":
            os.write(near, b"\x03")
        else:
            try:
                os.kill(pid, getattr(signal, f"SIG{each}"))
            except ProcessLookupError:
                pass
        time.sleep(0.05 if "+" in name else 0)
    alarm = threading.Timer(PATIENCE, lambda: os.kill(pid, signal.SIGKILL))
    alarm.start()
    status = os.waitstatus_to_exitcode(int(told.readline())) if options.terminal else child.wait()
    alarm.cancel()
    seconds = time.monotonic() - began
    time.sleep(0.05)
    intact = not options.terminal or termios.tcgetattr(far) == before
    if options.terminal:
        child.kill()
        child.wait()
        os.close(far)
        listener.join(1)
        os.close(near)
    elif child.stdin:
        child.stdin.close()
    return End(pid, status, seconds, bytes(said[heard:]),
               bytes(said[-300:]).decode(errors="replace").strip(), read_traceback(bytes(said)), intact)


def look(run: End, name: str, folder: Path, known: dict[str, int], options: argparse.Namespace) -> list[str]:
    """What is wrong with how a run ended and with what it left in its folder."""
    wanted = -getattr(signal, f"SIG{name.partition('+')[0]}")
    over = run.status == 0 and run.seconds < 0.2  # it had ended before
    passed_on = "exec" in options.words and run.status == 128 - wanted
    wrong = [] if over or passed_on or run.status == wanted else [f"status {run.status}: {run.last}"]
    wrong += [f"{run.seconds:.1f} s to end"] if run.seconds > 4 else []
    if run.traceback:
        return [run.traceback]
    lines = run.said.decode(errors="replace").strip().splitlines()
    wrong += [f"{len(lines)} lines"] if len(lines) > 8 else []
    wrong += [] if run.terminal else ["the terminal is not as before"]
    may = dict(word.partition("=")[::2] for word in options.may)
    for path, size in list_files(folder).items():
        if known.get(path) != size and not path.startswith((".cog/", "__pycache__/")):
            if path not in may or (may[path] and int(may[path]) != size):
                wrong.append(f"{path} ({size} bytes)")
        elif path not in known and is_half_made(folder, path):
            wrong.append(path)
    return wrong


def check(moment: float, name: str, folder: Path, options: argparse.Namespace) -> list[str]:
    """What is left of, or wrong with, a run that was ended after so many seconds."""
    engine, mark = Engine(), f"KILL_MARK={os.urandom(8).hex()}"
    with tempfile.TemporaryDirectory() as scratch, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        environ = {**os.environ, "TMPDIR": scratch, mark.partition("=")[0]: mark.partition("=")[2]}
        known, images = list_files(folder), list_half_made(engine)
        common = set(os.listdir("/tmp"))
        command = [word.replace("{port}", str(port)) for word in options.words]
        run = end_at(moment, name, command, folder, environ, options)
        time.sleep(2)
        wrong = [*look(run, name, folder, known, options), *list_containers(engine, run.pid),
                 *list_processes(mark, str(folder)), *(f"TMPDIR/{left}" for left in os.listdir(scratch)),
                 *(f"/tmp/{left}" for left in set(os.listdir("/tmp")) - common if left.startswith("cog"))]
        options.suspects.update(dict.fromkeys(list_half_made(engine) - images, f"{moment:.2f} s, {name}"))
        if "{port}" in "".join(options.words):
            with socket.socket() as again:
                again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if again.connect_ex(("127.0.0.1", port)) == 0:
                    wrong.append("the port is served")
        if options.show:
            print(f"--- {moment:.2f} s, {name}: status {run.status} after {run.seconds:.2f} s\n{run.said.decode()}")
        if options.then:
            try:
                then = subprocess.run(options.then, shell=True, cwd=folder, capture_output=True, timeout=60)
                wrong += [f"then: {then.stderr.decode()[-300:]}"] if then.returncode else []
            except subprocess.TimeoutExpired:
                wrong.append("then: waits")
        return wrong


def main() -> None:
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--step", type=int, default=100)
    parser.add_argument("--from", type=int, default=100, dest="first")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--signals", default="KILL,INT,TERM,HUP,INT+INT")
    parser.add_argument("--folder", default="")
    parser.add_argument("--then", default="")
    parser.add_argument("--stdin", default="")
    parser.add_argument("--may", action="append", default=[])
    for flag in ("--keep", "--terminal", "--show"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("words", nargs="+")
    options = parser.parse_args()
    options.suspects = {}  # images: others build, too, so they are looked at once more in the end
    names, bad = options.signals.split(","), 0
    for each in set(options.signals.replace("+", ",").split(",")) - {"KILL"}:
        signal.signal(getattr(signal, f"SIG{each}"), signal.SIG_DFL)  # a shell in the background ignores some
    with tempfile.TemporaryDirectory(prefix="kill-") as base:
        for number in range(options.kills):
            folder = Path(base, "kept" if options.keep else f"run{number}")
            if options.folder and not folder.exists():
                shutil.copytree(options.folder, folder, symlinks=True)
            folder.mkdir(exist_ok=True)
            moment, name = (options.first + options.step * number) / 1000, names[number % len(names)]
            wrong = check(moment, name, folder, options)
            bad += bool(wrong)
            if wrong:
                print(f"{moment:.2f} s, {name}: {', '.join(wrong)}", flush=True)
            if not options.keep:
                shutil.rmtree(folder, ignore_errors=True)
    time.sleep(10 if options.suspects else 0)
    for image in list_half_made(Engine()) & options.suspects.keys():
        print(f"{options.suspects[image]}: perhaps image {image[7:19]}")
    print(f"{options.kills} kills, {bad} left something; wanted: 0")


if __name__ == "__main__":
    main()
