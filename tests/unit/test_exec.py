"""What `exec` is planned like: where flags end, ports, variables, the create body; and its small parts."""
from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cogpredict as cog

ROOT = Path(__file__).resolve().parents[2]
PROJECT = cog.Project("/home/me/echo", {"COG_PREDICT_TYPE_STUB": "predict.py:P"}, b"", {"cog.yaml": b""}, False)
IMAGE = {"Id": "sha256:1", "Config": {"Cmd": ["python", "-m", "cog.server.http"]}}


def plan(*arguments, terminal=None, environ=None, label=None, project=PROJECT, variables=None):
    runnable = cog.Runnable("", IMAGE, label or {}, variables or {}, project)
    run = cog.Run("cog-1", "", cog.Ports(0, 0))
    return cog.plan_exec(cog.parse_argv(["exec", *arguments]), runnable, run, environ=environ or {}, cwd="/here",
                         podman=False, terminal=terminal)


@pytest.mark.parametrize("argv, env, words", [
    (["ls", "-la", "--env", "x"], (), ("ls", "-la", "--env", "x")),
    (["-e", "A=1", "--env=B=2", "-eC=3", "ls"], ("A=1", "B=2", "C=3"), ("ls",)),
    (["-qe", "A=1", "ls"], ("A=1",), ("ls",)), (["-qeA=e", "ls"], ("A=e",), ("ls",)),
    (["-q", "--", "-odd", "--", "x"], (), ("-odd", "--", "x")),
    (["--gpus", "all", "python", "--help"], (), ("python", "--help")),
    (["--use-cog-base-image", "env", "--use-cog-base-image"], (), ("env", "--use-cog-base-image"))])
def test_flags_end_where_the_command_begins(argv, env, words):
    options = cog.parse_argv(["exec", *argv])
    assert (options.env, options.words, options.command) == (env, words, "exec")


def test_a_global_flag_before_exec_and_what_looks_like_one_behind():
    options = cog.parse_argv(["--debug", "exec", "run", "--quiet"])
    assert options.debug and not options.quiet and options.words == ("run", "--quiet")


@pytest.mark.parametrize("argv", [["exec"], ["exec", "-e", "A=1"], ["exec", "--"], ["exec", "--colour", "ls"],
                                  ["exec", "-e"], ["exec", "-i", "a=b", "ls"]])
def test_a_line_without_a_command_or_with_flags_of_others(argv):
    with pytest.raises(cog.UsageError):
        cog.parse_argv(argv)


def tcp(port, host_port=None, address="127.0.0.1"):
    return f"{port}/tcp", {"HostIp": address, "HostPort": str(host_port if host_port is not None else port)}


@pytest.mark.parametrize("text, ports", [
    ("8000", [tcp(8000)]), ("8080:80", [tcp(80, 8080)]), ("0.0.0.0:8000", [tcp(8000, address="0.0.0.0")]),
    ("1.2.3.4:8080:80", [tcp(80, 8080, "1.2.3.4")]), ("127.0.0.1::80", [tcp(80, 0)]), ("0:80", [tcp(80, 0)]),
    ("[::1]:8000", [tcp(8000, address="::1")]), ("::1:8000", [tcp(8000, address="::1")]),
    ("[::1]:8080:80", [tcp(80, 8080, "::1")]), ("8000/TCP", [tcp(8000)]),
    ("53/udp", [("53/udp", {"HostIp": "127.0.0.1", "HostPort": "53"})]),
    ("9000-9001", [tcp(9000), tcp(9001)]), ("8000-8001:80-81", [tcp(80, 8000), tcp(81, 8001)]),
    ("8000-8009:80", [tcp(80, "8000-8009")]), ("127.0.0.1::80-81", [tcp(80, 0), tcp(81, 0)])])
def test_ports_as_docker_takes_them(text, ports):
    assert cog.parse_publish(text) == ports


@pytest.mark.parametrize("text", ["", "x", "0", "65536", "80/icmp", "80/", ":80", "8000:", "localhost:8000", "a:1:2",
                                  "1:2:3", "90-80", "1-2:1-3", "-1", "8000:-80", "[::1:80:80", "1.2.3.4:", "٨",
                                  "80 ", "1e3"])
def test_ports_that_nobody_takes(text):
    with pytest.raises(cog.UsageError, match="invalid port") as caught:
        cog.parse_publish(text)
    assert "\n" not in str(caught.value) and caught.value.hint


@given(st.text("0123456789:-./[]abu", max_size=20))
def test_any_text_is_ports_or_a_usage_error(text):
    try:
        ports = cog.parse_publish(text)
    except cog.UsageError:
        return
    assert ports and all(0 < int(port.partition("/")[0]) < 1 << 16 for port, _ in ports)


def test_bad_flags_are_found_before_anything_is_done():
    for flag, value in (("publish", "x"), ("volume", "x"), ("gpus", "some")):
        given_value = value if flag == "gpus" else (value,)
        with pytest.raises(cog.UsageError):
            cog.check_flags(cog.Options(**{flag: given_value}), "/")


def test_the_container_is_the_command_on_our_streams():
    made = plan("-p", "8080:80", "-p", "81", "-v", "./d:/d", "sh", "-c", "ls")
    body, host = made.body, made.body["HostConfig"]
    assert (body["Entrypoint"], body["Cmd"], body["Tty"]) == (["sh", "-c", "ls"], [], False)
    assert body["OpenStdin"] and body["StdinOnce"] and host["AutoRemove"] and host["Init"]
    assert host["Mounts"] == [{"Type": "bind", "Source": "/home/me/echo", "Target": "/src"}]
    assert host["PortBindings"] == {"80/tcp": [tcp(80, 8080)[1]], "81/tcp": [tcp(81)[1]]}
    assert body["ExposedPorts"] == {"80/tcp": {}, "81/tcp": {}} and host["Binds"] == ["/here/d:/d"]
    assert "ConsoleSize" not in host and made.ports == (0, 0)


def test_one_port_in_two_places():
    assert [place["HostPort"] for place in plan("-p", "1:80", "-p", "2:80", "x").body["HostConfig"]["PortBindings"][
        "80/tcp"]] == ["1", "2"]


def test_the_variables_of_a_command():
    env = plan("-e", "TERM=dumb", "x", terminal=(24, 80), environ={"RUST_LOG": "debug", "TERM": "xterm"},
               variables={"TERM": "dumb", "COG_PREDICT_TYPE_STUB": "mine"}).body["Env"]
    assert sorted(env) == ["COG_PREDICT_TYPE_STUB=mine", "LOG_FORMAT=console", "RUST_LOG=debug", "TERM=dumb"]
    assert not any(entry.startswith(("TERM", "PORT", "COG_MAX")) for entry in plan("x").body["Env"])


def test_a_terminal_has_a_size_and_a_kind():
    body = plan("x", terminal=(24, 80)).body
    assert body["Tty"] and body["HostConfig"]["ConsoleSize"] == [24, 80] and "TERM=xterm" in body["Env"]


def test_gpus_are_asked_for_as_the_model_does():
    made = plan("x", label={"build": {"gpu": True}})
    assert made.gpus_by_label and made.body["HostConfig"]["DeviceRequests"]
    assert plan("--cpu", "x", label={"build": {"gpu": True}}).body["HostConfig"]["DeviceRequests"] == []


def test_the_codes_of_our_own_faults():
    codes = [error("x").exit_code for error in (cog.ExecFailed, cog.NotExecutable, cog.CommandMissing)]
    assert codes == [125, 126, 127]


def test_a_borrowed_descriptor_stays_open_and_blocking():
    reading, writing = os.pipe()
    os.write(writing, b"abc")
    stream = cog.BorrowedStream(reading)
    assert stream.recv(2) == b"ab" and os.get_blocking(reading)
    stream.close()
    assert os.read(reading, 9) == b"c"
    os.close(reading)
    os.close(writing)


def test_the_file_in_a_tar():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("cög.yaml")
        member.size, member.mtime = 3, 1.5
        archive.addfile(member, io.BytesIO(b"abc"))
    assert cog.first_file(buffer.getvalue()) == b"abc"
    assert cog.first_file(bytes(10240)) is None and cog.first_file(b"no tar") is None
    assert cog.first_file(buffer.getvalue()[:1300]) is None


def test_a_guardian_cleans_when_it_is_told_to(tmp_path):
    guardian = cog.Guardian(lambda: bool((tmp_path / "cleaned").write_text("x")))
    guardian.dismiss(clean=True)
    deadline = time.monotonic() + 5
    while not (tmp_path / "cleaned").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (tmp_path / "cleaned").exists()
    guardian.dismiss()


@pytest.mark.parametrize("waits", ["loop.run(lambda: False, 1e18)", "time.sleep(15)"])
def test_an_interruption_that_python_drops_is_raised_again(waits):
    program = """
import os, signal, sys, time, weakref
import cogpredict as cog
loop = cog.Loop()
cog.catch_signals(loop)
class Thing: pass
thing = Thing()
watch = weakref.ref(thing, lambda _: (os.kill(os.getpid(), signal.SIGINT), [None for _ in range(999)]))
del thing
try:
    exec(sys.argv[1])
except cog.Interrupted as interruption:
    print("raised", interruption.signal_number)
"""
    done = subprocess.run([sys.executable, "-c", program, waits], cwd=ROOT, capture_output=True, timeout=20)
    assert done.stdout == f"raised {int(signal.SIGINT)}\n".encode() and done.stderr == b""


class Deaf:
    """An engine that is interrupted whatever is asked of it."""

    def __getattr__(self, name):
        def call(*_, **__):
            raise cog.Interrupted(signal.SIGINT)
        return call


@pytest.mark.parametrize("act", [lambda host: host.keep_up(), lambda host: host.close()])
def test_an_interruption_is_not_taken_for_an_error_that_does_not_matter(act):
    class Sized:
        def size(self):
            return 30, 91

        def leave(self):
            pass

    host = cog.ExecHost(Deaf(), plan("ls"), cog.Loop(), cog.Console({}), 0, Sized())
    host._container = "c"
    with pytest.raises(cog.Interrupted):
        act(host)


def test_once_a_command_has_returned_a_signal_ends_the_process_at_once():
    program = """
import os, signal, sys
import cogpredict as cog
cog.COMMANDS["init"] = lambda options, world: 0
assert cog.main(["init"]) == 0
os.kill(os.getpid(), signal.SIGTERM)
print("still here")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGTERM, b"", b"")


def test_no_signal_is_raised_in_a_guardian():
    """One that comes with the terminal's Ctrl-C, just as it is made, does not end its work."""
    program = """
import os, signal, sys, time
import cogpredict as cog
cog.catch_signals(cog.Loop())
fork = os.fork
def fork_and_press():
    pid = fork()
    if pid == 0:
        os.kill(os.getpid(), signal.SIGINT)
        [None for _ in range(999)]
    return pid
os.fork = fork_and_press
cog.Guardian(lambda: bool(os.write(1, b"cleaned")), [1])
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"cleaned", b"")
