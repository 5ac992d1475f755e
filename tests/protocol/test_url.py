"""`predict --url` and `inspect --url` on a scripted server: over TLS, through proxies, and with every refusal."""
from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import signal
import socket
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from certificates import CURVE, openssl

import cogpredict

TOKEN = "r8_very-secret"
FILE = {"type": "string", "format": "uri"}


def document(output: Any) -> dict[str, Any]:
    """The schema of a model that takes a text, a file and a list of files."""
    inputs = {"text": {"type": "string"}, "file": FILE, "files": {"type": "array", "items": FILE}}
    return {"openapi": "3.0.2", "paths": {}, "components": {"schemas": {
        "Input": {"type": "object", "properties": inputs}, "Output": output}}}


def succeeded(output: Any, **more: Any) -> dict[str, Any]:
    return {"id": "x", "logs": "", "output": output, "status": "succeeded", **more}


class Model:
    """A server of answers: by method and path a status and a body, or a function of a Handler. `seen` are requests."""

    def __init__(self, output: Any = None, *, tls: ssl.SSLContext | None = None) -> None:
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.unread = ""  # a path whose requests are answered at their head
        self.answers: dict[str, Any] = {
            "GET /health-check": (200, {"status": "READY"}),
            "GET /openapi.json": (200, document(output or {"type": "string"})),
            "POST /predictions": (200, succeeded("done")),
        }
        model = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                body = b"" if self.path == model.unread else self.rfile.read(length)
                headers = {name.lower(): value for name, value in self.headers.items()}
                model.seen.append((self.command, self.path, headers, body))
                found = model.answers.get(f"{self.command} {self.path}", (404, {"detail": "Not Found"}))
                if callable(found):
                    found(self)
                else:
                    self.reply(*found)

            do_GET = do_POST = do_PUT = do_CONNECT = answer

            def reply(self, status: int, body: Any, **headers: str) -> None:
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def asked(self, call: str) -> list[tuple[dict[str, str], bytes]]:
        """Headers and bodies of the requests for a method and path."""
        return [(headers, body) for method, path, headers, body in self.seen if f"{method} {path}" == call]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def start() -> Iterator[Callable[..., Model]]:
    """A function that starts a Model; all are closed in the end."""
    models: list[Model] = []

    def make(*args: Any, **how: Any) -> Model:
        models.append(Model(*args, **how))
        return models[-1]

    yield make
    for model in models:
        model.close()


@pytest.fixture
def call(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """A function that runs a command as main does; exit code (of an interruption -SIGNAL), stdout and stderr."""

    def run(*arguments: str, loop: cogpredict.Loop | None = None, stdin: bytes = b"",
            **environ: str) -> tuple[int, str, str]:
        options = None
        console = cogpredict.Console(environ, debug=True)
        try:
            options = cogpredict.parse_argv(list(arguments))
            world = cogpredict.World(console, environ, str(tmp_path), str(tmp_path), io.BytesIO(stdin),
                                     loop or cogpredict.Loop())
            code = cogpredict.COMMANDS[options.command](options, world)
        except cogpredict.CogError as error:
            console.error(error)
            code = error.exit_code
        except cogpredict.Interrupted as interruption:
            code = -interruption.signal_number
        out, err = capfd.readouterr()
        return code, out, err

    return run


def test_a_text_below_a_path(start, call):
    model = start()
    model.answers = {key.replace(" /", " /models/a/"): value for key, value in model.answers.items()}
    model.answers["POST /models/a/predictions"] = (200, succeeded("a cat", logs="thinking\nhard\n"))
    code, out, err = call("predict", "--url", f"{model.url}/models/a/", "-i", "text=hi")
    assert (code, out) == (0, "a cat\n")
    assert "thinking\nhard\n" in err
    [(headers, body)] = model.asked("POST /models/a/predictions")
    request = json.loads(body)
    assert request.pop("id") and request == {"input": {"text": "hi"}}
    assert headers["host"] == f"127.0.0.1:{model.port}" and "authorization" not in headers


def test_files_travel_inside_the_json(start, call, tmp_path):
    model = start()
    content = os.urandom(500_001)
    (tmp_path / "a.bin").write_bytes(content)
    (tmp_path / "none.txt").write_bytes(b"")
    code, out, err = call("predict", "--url", model.url, "-i", "file=@a.bin", "-i", "files=@none.txt", "-i",
                          "files=@a.bin", "-i", 'text=say "hi"')
    assert (code, out) == (0, "done\n"), err
    [(headers, body)] = model.asked("POST /predictions")
    url = "data:application/octet-stream;base64," + base64.b64encode(content).decode()
    assert json.loads(body)["input"] == {"file": url, "files": ["data:text/plain;base64,", url], "text": 'say "hi"'}
    assert int(headers["content-length"]) == len(body)


def test_inputs_are_checked_before_anything_is_sent(start, call):
    model = start()
    model.answers["GET /health-check"] = (200, {"status": "STARTING"})
    code, _, err = call("predict", "--url", model.url, "-i", "txet=1")
    assert code == 2 and 'unknown input "txet"' in err
    assert not model.asked("POST /predictions")


def test_a_data_url_is_saved(start, call, tmp_path):
    model = start(FILE)
    model.answers["POST /predictions"] = (200, succeeded("data:image/png;base64," + base64.b64encode(b"PNG").decode()))
    code, out, err = call("predict", "--url", model.url, "-o", "cat")
    assert (code, out) == (0, "") and (tmp_path / "cat.png").read_bytes() == b"PNG", err


def test_an_output_with_a_url_is_fetched_and_the_token_goes_to_the_model_only(start, call, tmp_path):
    store, model = start(), start({"type": "array", "items": FILE})
    model.answers["GET /files/own%20a"] = lambda handler: handler.reply(200, b"own", **{"Content-Type": "image/gif"})
    model.answers["GET /moved?key=1"] = lambda handler: handler.reply(302, b"", Location=f"{store.url}/there.tar")
    store.answers["GET /there.tar"] = (200, b"theirs" * 100_000)
    model.answers["POST /predictions"] = (200, succeeded([f"{model.url}/files/own a", f"{model.url}/moved?key=1"]))
    code, out, err = call("predict", "--url", model.url, "--token-env", "T", T=TOKEN)
    assert (code, out) == (0, ""), err
    assert (tmp_path / "output.0.gif").read_bytes() == b"own"
    assert (tmp_path / "output.1.tar").read_bytes() == b"theirs" * 100_000
    assert {headers["authorization"] for _, _, headers, _ in model.seen} == {f"Bearer {TOKEN}"}
    assert ["authorization" in headers for headers, _ in store.asked("GET /there.tar")] == [False]


@pytest.mark.parametrize(("answer", "said"), [
    ((404, b""), "status 404"), (lambda handler: handler.reply(200, b"half", **{"Content-Length": "9"}), "cut short"),
    (lambda handler: handler.reply(302, b"", Location="file:///etc/passwd"), "http"),
    (lambda handler: handler.reply(302, b"", Location="/gone"), "status 302"),
    (lambda handler: handler.reply(302, b"", Location="http://127.0.0.1:1/x"), "nothing listens at 127.0.0.1:1"),
    (lambda handler: handler.connection.shutdown(socket.SHUT_RDWR), "without an answer"),
])
def test_an_output_that_cannot_be_fetched_leaves_nothing(start, call, tmp_path, answer, said):
    model = start(FILE)
    model.answers["GET /gone"] = answer
    model.answers["POST /predictions"] = (200, succeeded(f"{model.url}/gone?signature=secret"))
    model.answers["GET /gone?signature=secret"] = answer
    code, out, err = call("predict", "--url", model.url)
    assert (code, out) == (6, "") and said in err and os.listdir(tmp_path) == [], err
    assert f"error: the output file {model.url}/gone cannot be fetched: " in err
    assert "signature" not in err.partition("error: ")[2]


def test_a_text_that_is_a_url_stays_one(start, call):
    model = start({"type": "string"})
    model.answers["POST /predictions"] = (200, succeeded(f"{model.url}/x"))
    assert call("predict", "--url", model.url)[:2] == (0, f"{model.url}/x\n")


def test_a_model_that_is_coming_up_is_waited_for(start, call):
    model = start()
    states = iter([None, None, (502, b"bad gateway"), (200, {"status": "STARTING"}), (200, {"status": "STARTING"})])

    def health(handler: Any) -> None:
        state = next(states, (200, {"status": "READY"}))
        if state is None:
            handler.connection.shutdown(socket.SHUT_RDWR)
        else:
            handler.reply(*state)

    model.answers["GET /health-check"] = health
    code, out, err = call("predict", "--url", model.url)
    assert (code, out) == (0, "done\n"), err
    assert len(model.asked("GET /health-check")) == 6 and len(model.asked("POST /predictions")) == 1


@pytest.mark.parametrize(("flags", "state", "code", "said"), [
    ([], {"status": "SETUP_FAILED", "setup": {"logs": "no weights\n"}}, 5, "Model setup failed: no weights"),
    ([], {"status": "SETUP_FAILED", "setup": {"logs": "ModuleNotFoundError: No module named 'numpy'"}}, 5,
     "python_requirements"),
    (["--setup-timeout", "0.4"], {"status": "STARTING"}, 5, "setup took longer than 0.4 seconds"),
    ([], {"status": "DEFUNCT"}, 6, "DEFUNCT"),
])
def test_a_model_that_does_not_get_ready(start, call, flags, state, code, said):
    model = start()
    model.answers["GET /health-check"] = (200, state)
    found, _, err = call("predict", "--url", model.url, *flags)
    assert found == code and said in err
    assert not model.asked("POST /predictions")


@pytest.mark.parametrize("path", ["GET /health-check", "POST /predictions"])
@pytest.mark.parametrize(("status", "code", "said"), [
    (401, 2, "wants a token"), (403, 2, "--token-env NAME"), (404, 2, "no Cog model answers at"),
    (302, 2, "--url https://new.example/a"), (308, 2, "sends us elsewhere"), (500, 6, "returned status 500"),
])
def test_refusals(start, call, path, status, code, said):
    model = start()
    location = "https://new.example/a" + path.partition(" ")[2]
    model.answers[path] = lambda handler: handler.reply(status, b"<html>\nno\n</html>", Location=location)
    found, out, err = call("predict", "--url", model.url)
    assert (found, out) == (code, "") and said in err, err
    assert len([line for line in err.splitlines() if line.startswith(("error: ", "hint: "))]) <= 2
    assert "<html>" not in err


@pytest.mark.parametrize(("status", "body", "code", "said"), [
    (409, {"detail": "Already running a prediction"}, 1, "is busy with another prediction"),
    (413, b"too long", 2, "does not take so large a request"),
    (422, {"detail": [{"loc": ["body", "input", "text"], "msg": "too short"}]}, 2, "- text: too short"),
    (200, b"<html>", 6, "not JSON"), (200, {"status": "starting"}, 6, "without a final status"),
    (200, succeeded(None, status="failed", error="boom"), 1, 'failed with status "failed": boom'),
])
def test_refusals_of_a_prediction(start, call, monkeypatch, status, body, code, said):
    monkeypatch.setattr(cogpredict, "BUSY_LIMIT", 1.5)
    model = start()
    model.answers["POST /predictions"] = (status, body)
    found, out, err = call("predict", "--url", model.url)
    assert (found, out) == (code, "") and said in err, err
    assert len(model.asked("POST /predictions")) >= 1 + (status == 409)


def test_a_busy_model_is_asked_again(start, call):
    model = start()
    tries = iter([(409, {"error": "At capacity"}), (503, {})])
    model.answers["POST /predictions"] = lambda handler: handler.reply(*next(tries, (200, succeeded("at last"))))
    assert call("predict", "--url", model.url)[:2] == (0, "at last\n")


@pytest.mark.parametrize("cut", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{\"status\": \"succ",
                                 b"HTTP/1.1 200 OK\r\n\r\n{\"status\": \"succ", b"SSH-2.0-x\r\n\r\n"])
def test_an_answer_that_is_cut_is_posted_only_once(start, call, cut):
    model = start()

    def reply(handler: Any) -> None:
        handler.wfile.write(cut)
        handler.connection.shutdown(socket.SHUT_RDWR)

    model.answers["POST /predictions"] = reply
    code, out, err = call("predict", "--url", model.url)
    assert (code, out) == (6, "") and err.count("error: ") == 1
    assert len(model.asked("POST /predictions")) == 1


@pytest.mark.parametrize(("path", "command"), [("/health-check", "predict"), ("/openapi.json", "inspect")])
def test_what_speaks_no_http_is_no_model(start, call, monkeypatch, path, command):
    model, over = start(), threading.Event()
    monkeypatch.setattr(cogpredict, "COMING_UP", 0.3)

    def greet(handler: Any) -> None:
        handler.wfile.write(b"220 mail ESMTP\r\n")
        over.wait(10)

    for answer, said in (
        (lambda handler: handler.wfile.write(b"SSH-2.0-x\r\n\r\n"), "answers, but not in HTTP"),
        (greet, "answers, but not in HTTP"),
        (lambda handler: handler.connection.shutdown(socket.SHUT_RDWR), "ends the connection without an answer"),
    ):
        model.answers[f"GET {path}"] = answer
        code, _, err = call(command, "--url", model.url)
        assert code == 6 and f"error: {model.url} {said}" in err and "hint: is it http:// or https://" in err
    over.set()
    model.answers[f"GET {path}"] = (400, b"Client sent an HTTP request to an HTTPS server.")
    code, _, err = call(command, "--url", model.url)
    assert code == 2 and "no Cog model answers at" in err and "hint: is it http:// or https://" in err


def test_a_server_that_says_nothing_is_not_asked_for_its_schema_for_ever(start, call, monkeypatch):
    model, over = start(), threading.Event()
    monkeypatch.setattr(cogpredict, "STALL_LIMIT", 0.3)
    model.answers["GET /openapi.json"] = lambda handler: over.wait(10)
    code, _, err = call("inspect", "--url", model.url)
    over.set()
    assert code == 6 and f"error: {model.url} says nothing\nhint: is it http:// or https://" in err


def test_too_large_a_request_is_not_begun(start, call, tmp_path):
    model = start()
    with open(tmp_path / "big.bin", "wb") as file:
        file.truncate(76 << 20)
    model.answers["GET /health-check"] = (200, {"status": "READY", "version": {"coglet": "0.23.1"}})
    code, _, err = call("predict", "--url", model.url, "-i", "file=@big.bin")
    assert code == 2 and "at most 100 MiB" in err and "101.3 MiB" in err
    assert not model.asked("POST /predictions")


def test_an_early_refusal_is_heard_while_the_body_is_sent(start, call, tmp_path):
    model = start()
    with open(tmp_path / "big.bin", "wb") as file:
        file.truncate(60 << 20)
    model.unread = "/predictions"
    model.answers["POST /predictions"] = (413, b"too long")
    code, _, err = call("predict", "--url", model.url, "-i", "file=@big.bin")
    assert code == 2 and "does not take so large a request" in err


def test_a_file_that_gets_shorter_before_it_is_sent(start, call, tmp_path):
    model = start()
    (tmp_path / "a.bin").write_bytes(bytes(5_000_000))

    def health(handler: Any) -> None:
        os.truncate(tmp_path / "a.bin", 4_000_000)
        handler.reply(200, {"status": "READY"})

    model.answers["GET /health-check"] = health
    code, _, err = call("predict", "--url", model.url, "-i", "file=@a.bin")
    assert code == 2 and "a.bin got shorter while it was being sent" in err


def test_the_token_is_shown_nowhere(start, call):
    model = start()
    code, out, err = call("predict", "--url", model.url, "--token-env", "T", "--dry-run", "-i", "text=x", T=TOKEN)
    assert code == 0 and json.loads(out) == {"url": model.url, "input": {"text": "x"}} and TOKEN not in err
    assert not model.asked("POST /predictions")
    model.answers["POST /predictions"] = (403, b"")
    code, _, err = call("predict", "--url", model.url, "--token-env", "T", T=TOKEN)
    assert code == 2 and "does not accept the token" in err and TOKEN not in err
    code, _, err = call("predict", "--url", model.url, "--token-env", "T", T=f"{TOKEN}\r\nX-Other: 1")
    assert code == 2 and "holds no token" in err and TOKEN not in err
    assert call("inspect", "--url", "http://me:secret@127.0.0.1")[0] == 2


def test_inspect(start, call):
    model = start(FILE)
    code, out, _ = call("inspect", "--url", model.url)
    assert code == 0 and "list of file" in out and "OUTPUT  file" in out
    code, out, _ = call("inspect", "--url", model.url, "--json")
    found = json.loads(out)
    assert code == 0 and found["url"] == model.url and "Input" in found["schema"]["components"]["schemas"]
    assert {key for key, value in found.items() if value is not None} == {"url", "schema"}
    for status, said in ((401, "wants a token"), (404, "offers no schema"), (500, "returned status 500")):
        model.answers["GET /openapi.json"] = (status, b"")
        code, out, err = call("inspect", "--url", model.url)
        assert code in (2, 6) and out == "" and said in err


def test_a_model_without_a_schema(start, call):
    model = start()
    del model.answers["GET /openapi.json"]
    code, out, err = call("predict", "--url", model.url, "-i", "any=1")
    assert (code, out) == (0, "done\n"), err
    assert json.loads(model.asked("POST /predictions")[0][1])["input"] == {"any": "1"}


def test_stdin_is_read_once_where_the_schema_comes_late(start, call):
    model = start()
    schemas = iter([(503, b"")])
    model.answers["GET /openapi.json"] = lambda handler: handler.reply(*next(schemas, (200, document(FILE))))
    code, _, err = call("predict", "--url", model.url, "--json", "-", stdin=b'{"text": "a", "files": "http://x"}')
    assert code == 2 and 'invalid input "files"' in err
    schemas = iter([(503, b"")])
    code, out, err = call("predict", "--url", model.url, "-i", "file=@-", stdin=b"hello")
    assert code == 0, err
    url = "data:application/octet-stream;base64," + base64.b64encode(b"hello").decode()
    assert json.loads(model.asked("POST /predictions")[0][1])["input"] == {"file": url}


def test_an_interruption_cancels_at_the_server(start, call):
    model, loop, over = start(), cogpredict.Loop(), threading.Event()
    begun: list[str] = []

    def predict(handler: Any) -> None:
        begun.append(json.loads(model.seen[-1][3])["id"])
        model.answers[f"POST /predictions/{begun[0]}/cancel"] = cancel
        os.kill(os.getpid(), signal.SIGUSR1)
        over.wait(10)
        handler.reply(200, succeeded(None, status="canceled"))

    def cancel(handler: Any) -> None:
        over.set()
        handler.reply(200, {})

    model.answers["POST /predictions"] = predict
    before = signal.signal(signal.SIGUSR1, lambda *_: loop.interrupt(cogpredict.Interrupted(2)))
    try:
        began = time.monotonic()
        code, out, err = call("predict", "--url", model.url, loop=loop)
        assert (code, out) == (-2, "") and "error: " not in err and "may go on" not in err
        assert over.is_set() and time.monotonic() - began < 9
        over.clear()
        model.answers["POST /predictions"] = lambda handler: (os.kill(os.getpid(), signal.SIGUSR1), over.wait(10))
        assert "may go on with the prediction" in call("predict", "--url", model.url, loop=loop)[2]
    finally:
        over.set()
        signal.signal(signal.SIGUSR1, before)


def test_out_of_time(start, call):
    model, over = start(), threading.Event()
    model.answers["POST /predictions"] = lambda handler: over.wait(10)
    code, _, err = call("predict", "--url", model.url, "--timeout", "0.3")
    over.set()
    assert code == 1 and "took longer than 0.3 seconds" in err
    assert [path for method, path, _, _ in model.seen if path.endswith("/cancel")]


# TLS and proxies


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate that signs itself, for this machine and model.example."""
    folder = tmp_path_factory.mktemp("tls")
    openssl(folder, "req", "-x509", *CURVE, "-days", "9", "-subj", "/CN=model", "-keyout", "key.pem", "-out",
            "cert.pem", "-addext", "subjectAltName=IP:127.0.0.1,DNS:model.example")
    return folder


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    return context


def test_over_tls(start, call, tls, certificate, tmp_path):
    model = start(FILE, tls=tls)
    (tmp_path / "a.bin").write_bytes(os.urandom(3_000_000))
    data = os.urandom(3_000_000)
    model.answers["POST /predictions"] = (200, succeeded("data:x/y;base64," + base64.b64encode(data).decode()))
    trust = {"COG_CA_CERT": str(certificate / "cert.pem")}
    code, _, err = call("predict", "--url", model.url, "-i", "file=@a.bin", "-o", "out.bin", **trust)
    assert code == 0 and (tmp_path / "out.bin").read_bytes() == data, err
    sent = json.loads(model.asked("POST /predictions")[0][1])["input"]["file"]
    assert base64.b64decode(sent.partition(",")[2]) == (tmp_path / "a.bin").read_bytes()
    code, _, err = call("predict", "--url", model.url)
    assert code == 6 and "is not trusted: self" in err and "COG_CA_CERT" in err
    code, _, err = call("predict", "--url", model.url.replace("127.0.0.1", "localhost"), **trust)
    assert code == 6 and "is not trusted: " in err and "name that the certificate is for" in err


def test_neither_tls_nor_anything_else(start, call, tls):
    code, _, err = call("inspect", "--url", start(tls=tls).url.replace("https:", "http:"))
    assert code == 6 and "hint: is it http:// or https://" in err
    model = start()
    code, _, err = call("predict", "--url", model.url.replace("http:", "https:"))
    assert code == 6 and "does not speak TLS" in err and "http://" in err
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        code, _, err = call("predict", "--url", f"http://127.0.0.1:{unused.getsockname()[1]}")
    assert code == 6 and "nothing listens at 127.0.0.1:" in err
    code, _, err = call("predict", "--url", "http://no-such-host.invalid")
    assert code == 6 and "no-such-host.invalid cannot be found" in err


def pass_on(handler: Any, port: int) -> None:
    """Be a tunnel to a port of this machine."""
    with socket.create_connection(("127.0.0.1", port)) as server:
        handler.send_response(200)
        handler.end_headers()

        def copy(source: Any, goal: Any) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    goal.sendall(data)

        there = threading.Thread(target=copy, args=(handler.connection, server), daemon=True)
        there.start()
        copy(server, handler.connection)
    handler.close_connection = True


def test_through_proxies(start, call, tls, certificate):
    model, proxy = start(tls=tls), start()
    proxy.answers = {"CONNECT model.example:443": lambda handler: pass_on(handler, model.port)}
    trust = {"COG_CA_CERT": str(certificate / "cert.pem")}
    place = f"me:pa%40ss@127.0.0.1:{proxy.port}"
    code, out, err = call("predict", "--url", "https://model.example", HTTPS_PROXY=f"http://{place}", **trust)
    assert (code, out) == (0, "done\n"), err
    assert "pa%40ss" not in err
    allowed = {headers["proxy-authorization"] for _, _, headers, _ in proxy.seen}
    assert allowed == {"Basic " + base64.b64encode(b"me:pa@ss").decode()}
    assert all("proxy-authorization" not in headers for _, _, headers, _ in model.seen)
    code, _, err = call("predict", "--url", "https://other.example", https_proxy=place)
    assert code == 6 and f"the proxy 127.0.0.1:{proxy.port} refuses a connection to other.example:443: 404" in err
    assert "pa%40ss" not in err
    proxy.answers = {"CONNECT model.example:443": lambda handler: handler.wfile.write(b"SSH-2.0-x\r\n\r\n")}
    code, _, err = call("predict", "--url", "https://model.example", HTTPS_PROXY=f"http://{place}")
    assert code == 6 and f"the proxy 127.0.0.1:{proxy.port} makes no connection to model.example:443: no HTTP" in err


def test_a_plain_request_is_the_proxys_own(start, call):
    proxy = start()
    proxy.answers = {key.replace(" /", " http://model.example/"): value for key, value in proxy.answers.items()}
    variables = {"http_proxy": f"127.0.0.1:{proxy.port}"}
    assert call("predict", "--url", "http://model.example", **variables)[:2] == (0, "done\n")
    assert {headers["host"] for _, _, headers, _ in proxy.seen} == {"model.example"}
    code, _, err = call("predict", "--url", "http://model.invalid", no_proxy="invalid", **variables)
    assert code == 6 and "model.invalid cannot be found" in err
    model = start()
    assert call("predict", "--url", model.url, http_proxy="127.0.0.1:1")[0] == 0


@pytest.mark.parametrize("value", ["socks5://127.0.0.1:1080", "http://", "https://a"])
def test_a_proxy_that_cannot_be_used(call, value):
    code, _, err = call("predict", "--url", "http://model.example", http_proxy=value)
    assert code == 2 and "http_proxy is not the address of an HTTP proxy" in err


def test_a_proxy_that_is_not_there(call):
    code, _, err = call("predict", "--url", "http://model.example", http_proxy="http://127.0.0.1:1")
    assert code == 6 and "the proxy: nothing listens at 127.0.0.1:1" in err
