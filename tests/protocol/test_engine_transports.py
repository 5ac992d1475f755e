"""The engine over TLS, through ssh and on sockets that refuse: with a certificate authority and an ssh of our own."""
from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from certificates import engine_context, make_authority
from fakeengine import FakeEngine, Step, ping_reply, reply, upgraded

import cogpredict
from cogpredict import Address, Console, EngineUnreachable, connect_engine

INFO = Step("GET /v1.41/info", reply("200 OK", b'{"ID": "x"}'))
PING = Step("GET /_ping", ping_reply())


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def tls(authority: Path) -> ssl.SSLContext:
    return engine_context(authority)


def docker_environ(fake: FakeEngine, authority: Path) -> dict[str, str]:
    return {"DOCKER_HOST": f"tcp://127.0.0.1:{fake.address.port}", "DOCKER_TLS_VERIFY": "1",
            "DOCKER_CERT_PATH": str(authority)}


def test_tls_with_both_certificates_as_the_environment_names_them(tls: ssl.SSLContext, authority: Path) -> None:
    with FakeEngine([PING, INFO], tls) as fake:
        address = cogpredict.find_address("", docker_environ(fake, authority), "/nonexistent")
        assert address.scheme == "tls"
        with connect_engine(address, Console({}), {}) as engine:
            assert engine.info() == {"ID": "x"}


def test_a_server_of_another_authority_is_refused_with_its_remedy(tls: ssl.SSLContext, authority: Path) -> None:
    with FakeEngine([], tls) as fake, pytest.raises(EngineUnreachable) as caught:
        connect_engine(fake.address, Console({}), {})
    assert "CERTIFICATE_VERIFY_FAILED" in str(caught.value) or "certificate verify failed" in str(caught.value).lower()
    assert "ca.pem" in caught.value.hint


def test_a_server_that_is_not_to_be_verified_is_not(authority: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "server.pem", authority / "server-key.pem")
    with FakeEngine([PING], context) as fake:
        connect_engine(fake.address._replace(verify=False), Console({}), {}).close()


def test_a_plain_server_asked_for_tls_is_said_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = Address("tls", "127.0.0.1", server.getsockname()[1])

        def refuse() -> None:
            with server.accept()[0] as connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=refuse)
        thread.start()
        with pytest.raises(EngineUnreachable) as caught:
            connect_engine(address, Console({}), {})
        thread.join()
    assert "TLS" in caught.value.hint and caught.value.exit_code == 3


def wait_for(stream: cogpredict.Transport, limit: int = 1 << 16) -> bytes:
    """The next bytes of a stream, as a loop would get them."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if not stream.pending():
            select.select([stream], [], [], 1)
        try:
            return stream.recv(limit)
        except BlockingIOError:
            continue  # half a TLS record
    raise AssertionError("nothing came")


def test_a_stream_inside_tls_both_ways_and_half_closed(tls: ssl.SSLContext, authority: Path) -> None:
    sent = os.urandom(300_000)

    def echo_and_go_on(connection: socket.socket) -> None:
        got = b""
        while len(got) < len(sent):
            got += connection.recv(1 << 16)
        connection.sendall(got)
        assert connection.recv(10) == b""
        connection.sendall(b"after your end")

    script = Step("POST /v1.41/exec/e1/start", upgraded(b"early"), talk=echo_and_go_on)
    with FakeEngine([PING, script], tls) as fake:
        address = cogpredict.find_address("", docker_environ(fake, authority), "/nonexistent")
        with connect_engine(address, Console({}), {}) as engine:
            stream = engine.exec_start("e1")
            got = b""
            while len(got) < 5:
                got += wait_for(stream, 2)
            assert got == b"early"
            view = memoryview(sent)
            while view:
                try:
                    view = view[stream.send(view):]
                except BlockingIOError:
                    select.select([stream], [stream], [])
            got = b""
            while len(got) < len(sent):
                got += wait_for(stream, 1000)
            assert got == sent
            stream.half_close()
            assert wait_for(stream) == b"after your end"
            stream.close()


@pytest.mark.parametrize("kind, words", [("missing", "No such file"), ("dead", "refused")])
def test_a_socket_that_is_not_served_is_an_error_with_its_remedy(tmp_path: Path, kind: str, words: str) -> None:
    path = str(tmp_path / "e.sock")
    if kind == "dead":
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(path)
    with pytest.raises(EngineUnreachable, match=words) as caught:
        connect_engine(Address("unix", path=path), Console({}), {"PATH": ""})
    assert not isinstance(caught.value, cogpredict.EngineAbsent)
    assert "--engine none" in caught.value.hint and caught.value.exit_code == 3


def test_an_engine_that_ends_with_bytes_of_ours_unread_has_ended() -> None:
    ours, theirs = socket.socketpair()
    stream = cogpredict.Transport(ours, b"first")
    stream.send(b"unread")
    theirs.sendall(b"last")
    theirs.close()
    assert [stream.recv(10) for _ in range(3)] == [b"first", b"last", b""]
    stream.close()


def test_a_socket_that_may_not_be_opened_says_who_may() -> None:
    error = cogpredict.explain_dial(Address("unix", path="/"), PermissionError(13, "Permission denied"), {})
    assert "Permission denied" in str(error)
    assert error.hint.startswith("`sudo` may open /, ")
    assert "--engine none" in error.hint


def test_a_port_that_nobody_serves_is_an_error_with_its_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(EngineUnreachable, match="refused") as caught:
        connect_engine(Address("tcp", "127.0.0.1", port), Console({}), {})
    assert "DOCKER_HOST" in caught.value.hint


def test_an_engine_that_does_not_answer_is_not_waited_for_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cogpredict, "CALL_TIMEOUT", 0.2)
    heard, found = threading.Event(), list[bool]()
    script = Step("GET /v1.41/info", b"", talk=lambda _: found.append(heard.wait(20)))
    with FakeEngine([script]) as fake, fake.engine() as engine:
        with pytest.raises(EngineUnreachable, match="not answer"):
            engine.info()
        heard.set()


# An ssh that runs on this machine: it forwards the socket and then the remote command, as the real one does.
STUB_SSH = '''#!{python}
import os, socket, sys, threading
args = sys.argv[1:]
open(os.environ["SSH_LOG"], "a").write(repr((args, os.getsid(0) == os.getpid())) + "\\n")
if os.environ.get("SSH_FAILS"):
    sys.exit("Host key verification failed.")
here, there = args[args.index("-L") + 1].split(":")
listener = socket.socket(socket.AF_UNIX)
listener.bind(here)
listener.listen()
def pump(source, sink):
    while True:
        data = source.recv(65536)
        if not data:
            break
        sink.sendall(data)
    try:
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass
def serve():
    while True:
        near, _ = listener.accept()
        far = socket.socket(socket.AF_UNIX)
        far.connect(there)
        threading.Thread(target=pump, args=(near, far), daemon=True).start()
        threading.Thread(target=pump, args=(far, near), daemon=True).start()
threading.Thread(target=serve, daemon=True).start()
assert args[-1] == "cat"
sys.stdin.read()
'''


@pytest.fixture
def ssh(tmp_path: Path) -> dict[str, str]:
    """An environment whose ssh is the stub."""
    program = tmp_path / "ssh"
    program.write_text(STUB_SSH.replace("{python}", sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return {"PATH": f"{tmp_path}:/usr/bin:/bin", "SSH_LOG": str(tmp_path / "log"), "TMPDIR": str(tmp_path)}


def ssh_address(fake: FakeEngine) -> Address:
    return cogpredict.parse_address(f"ssh://me@gpu1:2222{fake.path}")


def has_ended(process_id: int) -> bool:
    """Whether a process is gone within a few seconds."""
    for _ in range(1000):
        try:
            if Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
            os.kill(process_id, 0)
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.01)
    return False


def test_ssh_is_one_forward_in_a_session_of_its_own_and_ends_with_the_engine(
        ssh: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", ssh["PATH"])
    kill = Step("POST /v1.41/containers/c/kill", reply("204 No Content"))
    with FakeEngine([PING, INFO, kill]) as fake:
        engine = connect_engine(ssh_address(fake), Console({}), ssh)
        process_id, path = engine._tunnel._process.pid, engine._tunnel.path  # type: ignore[union-attr]
        assert engine.info() == {"ID": "x"} and not engine.host_is_local
        engine.container_kill("c", forget=True)
        assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
        engine.close()
        engine.close()
    assert has_ended(process_id) and not os.path.exists(os.path.dirname(path))
    line = (tmp_path / "log").read_text()
    assert line.count("\n") == 1 and line.rstrip().endswith("True)")
    assert "'BatchMode=yes'" in line and "'-l', 'me', '-p', '2222'" in line and "'--', 'gpu1', 'cat'" in line


def test_an_ssh_that_fails_is_an_error_in_its_own_words(ssh: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", ssh["PATH"])
    monkeypatch.setattr(tempfile, "tempdir", ssh["TMPDIR"])
    with pytest.raises(EngineUnreachable, match="me@gpu1: Host key verification failed") as caught:
        connect_engine(Address("ssh", "gpu1", path="/x.sock", user="me"), Console({}), {**ssh, "SSH_FAILS": "1"})
    assert "BatchMode" in caught.value.hint
    assert not [name for name in os.listdir(ssh["TMPDIR"]) if name.startswith("cog-ssh-")]


def test_a_missing_ssh_is_said_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineUnreachable, match="ssh cannot be run"):
        connect_engine(Address("ssh", "gpu1", path="/x.sock"), Console({}), {"PATH": str(tmp_path)})


def test_ssh_ends_when_we_are_killed_and_a_detached_process_can_still_use_it_before(
        ssh: dict[str, str], tmp_path: Path) -> None:
    removed = Step("DELETE /v1.41/containers/run1", b"HTTP/1.1 204 No Content\r\n\r\n")
    code = '''
import os, sys, time
import cogpredict
from cogpredict import *
engine = connect_engine(parse_address(sys.argv[1]), Console({}), os.environ)
watched, ours = os.pipe()
if os.fork() == 0:
    os.setsid()
    keep = [watched, *engine.descriptors()]
    for descriptor in range(3, 256):
        if descriptor not in keep:
            try:
                os.close(descriptor)
            except OSError:
                pass
    os.read(watched, 1)
    os._exit(0 if engine.detached_remove("run1") else 1)
print(engine._tunnel._process.pid, flush=True)
time.sleep(60)
'''
    with FakeEngine([PING, removed]) as fake:
        environ = {**ssh, "PYTHONPATH": str(Path(cogpredict.__file__).parent)}
        argv = [sys.executable, "-c", code, f"ssh://me@gpu1:2222{fake.path}"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, env=environ) as process:
            assert process.stdout is not None
            process_id = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
    assert has_ended(process_id)
    deadline = time.monotonic() + 5
    while [name for name in os.listdir(tmp_path) if name.startswith("cog-ssh-")] and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not [name for name in os.listdir(tmp_path) if name.startswith("cog-ssh-")]


def test_openssl_is_here() -> None:
    assert shutil.which("openssl"), "these tests make their certificates with the openssl program"
