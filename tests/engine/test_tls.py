"""A real engine behind TLS, named by DOCKER_HOST and by a docker context, with right and wrong certificates."""
from __future__ import annotations

import filecmp
import hashlib
import json
import os
import select
import shutil
import socket
import ssl
import threading
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from certificates import engine_context, make_authority

import cogpredict


class Front:
    """A door of TLS on 127.0.0.1 in front of the engine: every connection is passed on, ends of one way too."""

    def __init__(self, engine: cogpredict.Address, context: ssl.SSLContext) -> None:
        self._engine, self._context = engine, context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.place = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.passed = 0  # connections that spoke TLS to our taste
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._serve, args=(client,)))
            self._threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(20)
        try:
            with self._context.wrap_socket(client, server_side=True) as inner, \
                    cogpredict.dial(self._engine, 20) as engine:
                self.passed += 1
                self._pass_on(inner, engine)
        except OSError:
            client.close()  # the handshake failed, or one side was cut

    @staticmethod
    def _pass_on(inner: ssl.SSLSocket, engine: socket.socket) -> None:
        other: dict[socket.socket, socket.socket] = {inner: engine, engine: inner}
        while engine in other:  # what the engine has said in full is the end
            ready = [inner] if inner in other and inner.pending() else select.select(list(other), [], [])[0]
            for source in ready:
                source.settimeout(0)
                try:
                    data = source.recv(1 << 16)
                except (ssl.SSLWantReadError, BlockingIOError):
                    continue
                target = other[source]
                target.settimeout(20)
                if data:
                    target.sendall(data)
                else:
                    del other[source]
                    socket.socket.shutdown(target, socket.SHUT_WR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(20)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("openssl"):
        pytest.skip("no openssl on this machine")
    return make_authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def front(authority: Path, engine_address: str) -> Iterator[Front]:
    found = Front(cogpredict.parse_address(engine_address), engine_context(authority))
    yield found
    found.close()


def by_environment(front: Front, folder: Path, authority: Path) -> dict[str, str]:
    return {"DOCKER_HOST": f"tcp://{front.place}", "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(authority)}


def by_context(front: Front, folder: Path, authority: Path) -> dict[str, str]:
    """As `docker context create behind --docker host=...,ca=...,cert=...,key=...` and `docker context use` leave it."""
    digest = hashlib.sha256(b"behind").hexdigest()
    meta, certs = (folder / "contexts" / kind / digest for kind in ("meta", "tls"))
    meta.mkdir(parents=True)
    (meta / "meta.json").write_text(json.dumps({"Name": "behind", "Metadata": {}, "Endpoints": {
        "docker": {"Host": f"tcp://{front.place}", "SkipTLSVerify": False}}}))
    (certs / "docker").mkdir(parents=True)
    for name in ("ca.pem", "cert.pem", "key.pem"):
        shutil.copy(authority / name, certs / "docker" / name)
    (folder / "config.json").write_text(json.dumps({"currentContext": "behind"}))
    return {"DOCKER_HOST": "", "DOCKER_CONFIG": str(folder)}


Naming = Callable[[Front, Path, Path], dict[str, str]]
NAMINGS = [pytest.param(by_environment, id="environment"), pytest.param(by_context, id="context")]


@pytest.mark.parametrize("naming", NAMINGS)
def test_an_image_is_predicted_on_through_tls(naming: Naming, front: Front, authority: Path, tmp_path: Path,
                                              images: Any, cog: Any) -> None:
    image = images("files", "0.23.1")
    (tmp_path / "in.bin").write_bytes(os.urandom(3 << 20))
    run = cog("predict", image, "-i", "file=@in.bin", "-i", "answer=copy", "-o", "out.bin",
              **naming(front, tmp_path / "docker", authority))
    assert run.code == 0 and front.passed > 3, run.err
    assert filecmp.cmp(tmp_path / "in.bin", tmp_path / "out.0.bin", shallow=False)


def test_a_project_is_built_and_its_shell_is_spoken_to_through_tls(front: Front, authority: Path, tmp_path: Path,
                                                                   model: Any) -> None:
    run, environ = model("echo"), by_environment(front, tmp_path, authority)
    code, out, err = run("predict", "-i", "text=hi", **environ)
    assert (code, out) == (0, "hi\n"), err
    assert run("exec", "sh", "-c", "cat; exit 3", stdin=b"to the end", **environ)[:2] == (3, "to the end")


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("change, said, remedy", [
    ("another authority", "CERTIFICATE_VERIFY_FAILED", "ca.pem must hold the authority"),
    ("no certificate", "cannot reach the engine", "DOCKER_CERT_PATH"),
])
def test_the_wrong_certificates_give_one_line_and_a_remedy(naming: Naming, change: str, said: str, remedy: str,
                                                           front: Front, authority: Path, tmp_path: Path,
                                                           cog: Any) -> None:
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    if change == "another authority":
        make_authority(wrong)
    else:
        shutil.copy(authority / "ca.pem", wrong)
        for name in ("cert.pem", "key.pem"):
            (wrong / name).symlink_to(os.devnull)
    run = cog("predict", "cog-test/echo:0.23.1", **naming(front, tmp_path / "docker", wrong))
    assert run.code == 3 and run.out == "" and "Traceback" not in run.err
    assert said in run.err and remedy in run.err and len(run.err.splitlines()) == 2, run.err
