"""`cog.pyz exec` on a real engine: a command in the model's environment, through pipes and in a terminal."""
from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import termios
import time
from pathlib import Path

import make_image
import pytest
from servedmodel import find_port

ROOT = Path(__file__).resolve().parents[2]
QUIET = ("exec", "-q")
pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # has threads, and is forked


@pytest.fixture(scope="module")
def project(tmp_path_factory, remove_images):
    """A model's folder, whose image is built once."""
    folder = tmp_path_factory.mktemp("exec") / "echo"
    shutil.copytree(ROOT / "tests" / "models" / "echo", folder)
    yield folder
    remove_images([folder])


@pytest.fixture
def start(command, project):
    """A function that starts the program in the project, its three streams pipes."""
    children = []

    def run(*arguments, **how):
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
        children.append(subprocess.Popen([*command, *arguments], cwd=project, **streams))
        return children[-1]

    yield run
    for child in children:
        child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout, child.stderr):
            if stream:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


@pytest.fixture
def execute(start):
    """A function that runs a command to its end: exit code, stdout, stderr."""
    def run(*arguments, stdin=b"", **how):
        child = start(*arguments, **how)
        out, err = child.communicate(stdin, timeout=120)
        return child.returncode, out, err

    return run


class Session:
    """The program in a terminal of its own."""

    def __init__(self, command, project, *arguments, size=(30, 91)):
        self.seen = b""
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            try:
                fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
                os.chdir(project)
                os.execve(command[0], [*command, *arguments], {**os.environ, "TERM": "xterm-256color"})
            finally:
                os._exit(99)

    def type(self, text):
        os.write(self.terminal, text)

    def resize(self, lines, columns):
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def wait_for(self, text, seconds=60.0):
        """Wait until this was shown, and forget what came before its end."""
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            assert self.read(deadline), f"{text!r} never came: {self.seen!r}"
        before, _, self.seen = self.seen.partition(text)
        return before

    def read(self, deadline):
        """Whether more came."""
        if not select.select([self.terminal], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return False
        try:
            data = os.read(self.terminal, 1 << 16)
        except OSError as error:
            assert error.errno == errno.EIO
            return False
        self.seen += data
        return bool(data)

    def end(self):
        """The exit code, and all that was shown since the last wait."""
        deadline = time.monotonic() + 60
        while self.read(deadline):
            pass
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status), self.seen

    def is_raw(self):
        return not termios.tcgetattr(self.terminal)[3] & termios.ECHO

    def close(self):
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.terminal)


@pytest.fixture
def session(command, project):
    """A function that runs the program in a terminal."""
    with contextlib.ExitStack() as stack:
        def run(*arguments, **how):
            return stack.enter_context(contextlib.closing(Session(command, project, *arguments, **how)))

        yield run


def wait_for_end(project):
    """Soon no container of ours sees this project; a busy engine takes its time to remove one."""
    deadline = time.monotonic() + 30
    while running(project) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [(each["Names"], each["Status"]) for each in running(project)] == []


def running(project):
    """The containers of ours that see this project."""
    found = make_image.Engine().call("GET", "/containers/json", {
        "all": 1, "filters": json.dumps({"label": ["cog.pyz.run"]})})
    return [each for each in found if any(mount["Source"] == str(project) for mount in each["Mounts"])]


# -- pipes


def test_a_command_sees_the_project_and_its_status_is_ours(execute, project, same_files):
    code, out, err = execute("exec", "sh", "-c", "pwd; cat cog.yaml; echo made > made.txt; echo wrong >&2; exit 3")
    assert code == 3
    assert out == b"/src\n" + (project / "cog.yaml").read_bytes()
    assert b"in Docker with the current directory mounted as a volume...\nwrong\n" in err
    assert (project / "made.txt").read_text() == "made\n"
    (project / "made.txt").unlink()


def test_flags_end_at_the_command_and_variables_arrive(execute):
    code, out, _ = execute(*QUIET, "-e", "A=1", "-e", "B", "sh", "-c", "echo $A $B $LOG_FORMAT; echo $0", "-e",
                           env={**os.environ, "B": "two words"})
    assert (code, out) == (0, b"1 two words console\n-e\n")
    assert execute(*QUIET, "--", "python", "-c", "import cog; print('cog')")[:2] == (0, b"cog\n")


def test_the_config_is_found_above_and_needs_no_predictor(command, project):
    below = project / "below"
    below.mkdir()
    (project / "exec.yaml").write_text('build:\n  python_version: "3.11"\n')
    done = subprocess.run([*command, *QUIET, "-f", "exec.yaml", "pwd"], cwd=below, capture_output=True,
                          stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (0, b"/src\n"), done.stderr


def test_no_byte_of_a_pipe_is_lost_and_its_end_arrives(execute):
    data = os.urandom(20_000_000)
    code, out, _ = execute(*QUIET, "sh", "-c", "cat; echo end >&2", stdin=data)
    assert code == 0 and hashlib.sha256(out).digest() == hashlib.sha256(data).digest()


@pytest.fixture
def endless():
    """A pipe that never runs dry."""
    pouring = subprocess.Popen(["yes"], stdout=subprocess.PIPE)
    yield pouring.stdout
    pouring.stdout.close()
    pouring.kill()
    pouring.wait()


def test_an_open_pipe_that_nobody_reads_or_writes_holds_nothing_up(start, endless):
    silent = start(*QUIET, "echo", "done")
    assert silent.stdout.read() == b"done\n"
    assert silent.wait(20) == 0, "the program waits for its stdin"
    busy = start(*QUIET, "sh", "-c", "sleep 1; echo done", stdin=endless)
    assert busy.stdout.read() == b"done\n" and busy.wait(20) == 0


def test_a_command_that_closes_its_stdin_goes_on(start, endless):
    child = start(*QUIET, "sh", "-c", "head -c 4; exec <&-; sleep 1; echo done", stdin=endless)
    assert child.stdout.read() == b"y\ny\ndone\n" and child.wait(20) == 0


def test_what_goes_in_comes_out_while_the_pipe_is_open(start):
    child = start(*QUIET, "python", "-u", "-c", "import sys\nfor line in sys.stdin: print('got', line, end='')")
    for word in (b"one\n", b"two\n"):
        child.stdin.write(word)
        child.stdin.flush()
        assert child.stdout.readline() == b"got " + word
    child.stdin.close()
    assert child.wait(20) == 0


def test_the_last_bytes_come_however_slowly_they_are_read(start):
    child = start(*QUIET, "sh", "-c", "head -c 3000000 /dev/zero; printf end")
    time.sleep(2.5)
    assert len(child.stdout.read()) == 3_000_003 and child.wait() == 0


def test_unfinished_lines_and_returns_are_not_touched(execute):
    code, out, err = execute(*QUIET, "sh", "-c", r"printf 'a\r\nb\rc'; printf 'x\ry' >&2")
    assert (code, out, err) == (0, b"a\r\nb\rc", b"x\ry")


def test_a_closed_stdout_ends_the_command_and_us(start, project):
    child = start(*QUIET, "yes")
    assert child.stdout.read(4) == b"y\ny\n"
    child.stdout.close()
    assert child.wait(20) == -signal.SIGPIPE


# -- how it ends


@pytest.mark.parametrize("words, code, said", [
    (["lss", "-l"], 127, "error: lss: command not found in the model's environment\nhint: "),
    (["/src/predict.py"], 126, "error: /src/predict.py cannot be run: Permission denied\n"),
    (["/src"], 126, "error: /src cannot be run: Permission denied\n"),
    (["sh", "-c", "kill -9 $$"], 137, ""), (["sh", "-c", "kill -TERM $$"], 143, ""),
    (["sh", "-c", "exit 125"], 125, "")])
def test_the_status_tells_what_became_of_the_command(execute, words, code, said):
    got, out, err = execute(*QUIET, *words)
    assert (got, out) == (code, b"") and err.decode().startswith(said) and bool(err) == bool(said), err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_the_commands_and_ours(start, project, number):
    child = start(*QUIET, "sh", "-c", "echo on; exec sleep 100")
    assert child.stdout.readline() == b"on\n"
    child.send_signal(number)
    assert child.wait(8) == -number
    wait_for_end(project)


def test_ctrl_c_reaches_what_a_shell_waits_for(start):
    child = start(*QUIET, "sh", "-c", "echo on; sleep 100; echo never")
    assert child.stdout.readline() == b"on\n"
    time.sleep(0.5)
    child.send_signal(signal.SIGINT)
    assert child.stdout.read() == b"" and child.wait(20) == -signal.SIGINT


def test_a_command_that_handles_a_signal_decides_the_status(start):
    child = start(*QUIET, "sh", "-c", "trap 'echo bye; exit 5' TERM; echo on; while :; do sleep 0.05; done")
    assert child.stdout.readline() == b"on\n"
    child.send_signal(signal.SIGTERM)
    assert child.stdout.read() == b"bye\n" and child.wait(20) == 5


def test_a_second_signal_does_not_wait(start):
    child = start(*QUIET, "sh", "-c", "trap '' INT; echo on; while :; do sleep 0.05; done")
    assert child.stdout.readline() == b"on\n"
    child.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert child.poll() is None
    child.send_signal(signal.SIGINT)
    assert child.wait(7) == -signal.SIGINT


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_whenever_the_program_is_ended(execute, start, project, number):
    assert execute(*QUIET, "true")[0] == 0
    for step in range(12):
        child = start("exec", "--debug", "sleep", "100")
        assert child.stderr.readline().startswith(b"engine: GET /_ping")
        time.sleep(0.04 * step)
        child.send_signal(number)
        child.wait(30)
        wait_for_end(project)


def test_a_stalled_reader_does_not_keep_it_from_ending(start, project):
    child = start(*QUIET, "yes")
    time.sleep(3)
    child.send_signal(signal.SIGTERM)
    time.sleep(1.5)
    child.send_signal(signal.SIGTERM)
    assert child.wait(7) == -signal.SIGTERM
    wait_for_end(project)


# -- a terminal


def test_a_shell_in_a_terminal(session):
    shell = session("exec", "bash", "--norc")
    shell.wait_for(b"mounted as a volume...")
    shell.wait_for(b"# ")
    assert shell.is_raw()
    shell.type(b"stty size; echo $TERM\r")
    assert b"30 91\r\nxterm-256color\r\n" in shell.wait_for(b"color\r\n") + b"color\r\n"
    shell.resize(44, 132)
    shell.type(b"until stty size | grep '^44 132'; do sleep 0.1; done; echo $((6*7))\r")
    shell.wait_for(b"44 132\r\n42\r\n")
    shell.type(b"sleep 100\r")
    time.sleep(0.3)
    shell.type(b"\x03")
    shell.wait_for(b"# ")
    shell.type(b"echo alive $?\r")
    shell.wait_for(b"alive 130")
    shell.type(b"exit 7\r")
    assert shell.end()[0] == 7


def test_a_terminal_is_as_it_was_after_a_kill_too(session):
    shell = session("exec", "bash", "--norc")
    before = termios.tcgetattr(shell.terminal)
    shell.wait_for(b"# ")
    assert shell.is_raw()
    os.kill(shell.pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while shell.is_raw() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert termios.tcgetattr(shell.terminal) == before


def test_what_was_typed_before_it_began_is_kept(session):
    shell = session(*QUIET, "bash", "--norc")
    shell.type(b"echo $((6*7))\rexit 3\r")
    code, shown = shell.end()
    assert code == 3 and b"42\r\n" in shown


def test_the_size_is_right_from_the_first_moment_or_soon(session):
    script = "for n in $(seq 100); do stty size | grep '^17 33' && break; sleep 0.1; done"
    assert session(*QUIET, "sh", "-c", script, size=(17, 33)).end() == (0, b"17 33\r\n")


def test_the_keys_that_leave_a_container_are_the_commands(session):
    keys = session(*QUIET, "sh", "-c", "stty raw -echo; printf on; head -c 3 | od -An -c")
    keys.wait_for(b"on")
    keys.type(b"\x10")
    time.sleep(0.2)
    keys.type(b"\x11x")
    code, shown = keys.end()
    assert code == 0 and b"020 021   x" in shown


def test_control_z_does_not_keep_control_c_from_a_command(session):
    stopped = session(*QUIET, "sh", "-c", "printf on; exec sleep 100")
    stopped.wait_for(b"on")
    time.sleep(2)
    stopped.type(b"\x1a")
    time.sleep(0.5)
    stopped.type(b"\x03")
    deadline = time.monotonic() + 20
    while stopped.read(deadline):
        pass
    assert time.monotonic() < deadline
    assert stopped.end()[0] in (130, -signal.SIGINT)


def test_the_terminal_is_given_back(session):
    ended = session(*QUIET, "sh", "-c", "printf on; sleep 100")
    ended.wait_for(b"on")
    assert ended.is_raw()
    os.kill(ended.pid, signal.SIGTERM)
    deadline = time.monotonic() + 5
    while ended.is_raw() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not ended.is_raw()
    assert ended.end()[0] == -signal.SIGTERM


def test_in_the_background_of_a_terminal_it_is_not_stopped(command, project):
    with contextlib.closing(Session(["/bin/bash", "--norc", "-i"], project)) as shell:
        shell.wait_for(b"$ " if os.getuid() else b"# ")
        shell.type(f"{' '.join(command)} exec -q sh -c 'cat; sleep 4; echo ba''ck' &\r".encode())
        time.sleep(1.5)
        shell.type(b"echo in fr''ont\r")
        shell.wait_for(b"in front")
        shell.wait_for(b"back")
        shell.type(b"wait; jobs; exit 3\r")
        code, shown = shell.end()
        assert code == 3 and b"Stopped" not in shown


def test_a_terminal_whose_output_is_a_file_is_none(command, project, tmp_path):
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            os.chdir(project)
            os.dup2(os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT), 1)
            os.execv(command[0], [*command, *QUIET, "sh", "-c", "test -t 0 || echo no terminal"])
        finally:
            os._exit(99)
    assert os.WEXITSTATUS(os.waitpid(pid, 0)[1]) == 0
    os.close(terminal)
    assert (tmp_path / "out").read_bytes() == b"no terminal\n"


# -- flags


def test_a_port_is_published(start, same_network):
    port = find_port()
    child = start(*QUIET, "-p", f"{port}:8000", "python", "-um", "http.server", "8000")
    deadline = time.monotonic() + 20
    answer = b""
    while not answer and time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as connection:
                connection.sendall(b"GET /cog.yaml HTTP/1.0\r\n\r\n")
                answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        except OSError:
            pass
        time.sleep(0.05)
    assert answer.startswith(b"HTTP/1.0 200") and b"python_version" in answer
    child.send_signal(signal.SIGINT)
    assert child.wait(15) in (0, -signal.SIGINT)


def test_a_port_that_the_engine_chooses_is_told(execute):
    code, _, err = execute("exec", "-p", "127.0.0.1::80", "-p", "127.0.0.1::53/udp", "sleep", "4")
    assert code == 0 and re.search(rb"port 80/tcp is at 127.0.0.1:\d+\n", err), err
    assert re.search(rb"port 53/udp is at 127.0.0.1:\d+\n", err)
    assert b"port " not in execute("exec", "-p", f"{find_port()}:80", "true")[2].replace(b"with the port", b"")


def test_a_port_that_is_taken_is_an_error_of_ours(execute, same_network):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, out, err = execute("exec", "-q", "-p", f"{taken.getsockname()[1]}:80", "echo", "never")
    assert code == 125 and out == b"" and err.startswith(b"error: ") and b"in use" in err


def test_a_volume_and_a_user(execute, tmp_path, same_files):
    (tmp_path / "note").write_text("seen")
    code, out, err = execute(*QUIET, "-v", f"{tmp_path}/note:/data/note:ro", "--user", "12:34", "sh", "-c",
                             "id -u; cat /data/note")
    assert (code, out) == (0, b"12\nseen"), err


@pytest.mark.parametrize("flags", [["-p", "x"], ["-p", "1:2:3"], ["-v", "a"], ["--gpus", "some"], ["-e", "=1"],
                                   ["--colour"], ["-f", "no.yaml"], ["--env-file", "no"]])
def test_bad_flags_are_one_line_before_anything_is_built(execute, flags):
    code, out, err = execute("exec", *flags, "ls")
    lines = err.decode().splitlines()
    assert code == 2 and out == b"" and lines[0].startswith("error: "), err
    assert len([line for line in lines if not line.startswith("hint: ")]) == 1


def test_no_command(execute):
    code, _, err = execute("exec", "-e", "A=1")
    assert code == 2 and b"exec needs a command" in err


def test_faults_of_ours_are_125(execute):
    code, _, err = execute("exec", "--engine", "unix:///nowhere", "ls")
    assert code == 125 and err.startswith(b"error: ")
    code, _, err = execute("exec", "--base-image", "127.0.0.1:9/no:1", "ls")
    assert code == 125 and b"cannot be had" in err


def test_a_folder_that_the_engine_does_not_see_is_copied_before_anything_runs(project, unseen):
    done = unseen(project, "exec", "sh", "-c", "ls; echo x > new.txt")
    assert done.code == 0 and "predict.py" in done.out, done.err
    assert "warning: /src is a copy of " in done.err
    assert not (project / "new.txt").exists()


# -- without an engine


@pytest.mark.slow
def test_the_environment_on_this_machine(execute, session, project):
    none = ("exec", "-q", "--engine", "none")
    code, out, err = execute(*none, "-e", "A=1", "python", "-c",
                             "import cog, os, sys; print(os.environ['A'], os.getcwd(), sys.prefix); sys.exit(9)")
    assert (code, out.decode()) == (9, f"1 {project} {project}/.cog/venv\n"), err
    assert execute(*none, "cat", stdin=b"abc")[:2] == (0, b"abc")
    assert execute(*none, "sh", "-c", "kill -TERM $$")[0] == -signal.SIGTERM
    assert execute(*none, "lss")[0] == 127 and execute(*none, "./predict.py")[0] == 126
    assert execute(*none, "sh", "-c", "yes | head -1; exit ${PIPESTATUS:-0}")[0] == 0
    code, _, err = execute(*none, "-p", "80", "ls")
    assert code == 2 and b"--publish needs a container engine" in err
    shell = session(*none, "bash", "--norc")
    shell.type(b"stty size; exit 4\r")
    shell.wait_for(b"30 91")
    assert shell.end()[0] == 4
