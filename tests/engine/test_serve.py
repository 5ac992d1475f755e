"""`cog.pyz serve`: a model behind a port of this machine, for as long as the program runs."""
from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

import make_image
import pytest
from servedmodel import READY, Served, ask, ask_last, find_port, is_open, needs_ipv6, wait_until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def serve(command, tmp_path, same_network):
    """A function that starts to serve in an empty folder, on a port that is free."""
    started = []

    def start(*words, port=0, folder=None, **how):
        if folder is None:
            folder = tmp_path / f"run{len(started)}"
            folder.mkdir()
        port = port or find_port()
        started.append(Served(command, folder, *words, "-p", str(port), **how))
        started[-1].port = port
        return started[-1]

    yield start
    for served in started:
        served.kill()


@pytest.fixture
def hooks():
    """The bodies that are posted to a server on this machine, which containers reach as `hooks.url`."""
    got = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            got.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_PUT = do_POST

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.got, server.url = got, f"http://host.docker.internal:{server.server_port}"
    yield server
    server.shutdown()
    server.server_close()


def list_publishing(port):
    """The containers that publish a port of this machine; others' runs on it are not looked at."""
    found = make_image.Engine().call("GET", "/containers/json")
    return [each["Id"] for each in found if port in [place.get("PublicPort") for place in each["Ports"]]]


HOOKED = {"webhook_events_filter": ["completed"]}
each_runtime = pytest.mark.parametrize("version", make_image.VERSIONS)


@each_runtime
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_model_answers_until_a_signal_ends_it(images, serve, version, number):
    served = serve(images("echo", version))
    url = served.url()
    assert ask(f"{url}/health-check")[1]["status"] == "READY"
    status, answer = ask(f"{url}/predictions", {"input": {"text": "a cat", "repeat": 2}})
    assert (status, answer["output"]) == (200, "a cat a cat")
    assert ask(f"{url}/predictions", {"input": {"repeat": 1000}})[0] == 422
    began = time.monotonic()
    assert served.end(number) == -number
    assert time.monotonic() - began < 10
    assert "error: " not in served.text()


@each_runtime
def test_its_own_api_can_end_it(images, serve, version):
    served = serve(images("echo", version))
    ask_last(f"{served.url()}/shutdown", {})
    assert served.process.wait(30) == 0


@each_runtime
def test_predictions_run_beside_the_request_and_webhooks_reach_this_machine(images, serve, hooks, version):
    served = serve(images("slow", version))
    url = served.url()
    hooked = {**HOOKED, "webhook": f"{hooks.url}/hook"}
    status, _ = ask(f"{url}/predictions/one", {**hooked, "input": {"seconds": 0.2}}, "PUT", Prefer="respond-async")
    assert status == 202
    wait_until(lambda: hooks.got)
    last = json.loads(hooks.got[-1][1])
    assert (last["id"], last["output"]) == ("one", "slept")
    wait_until(lambda: ask(f"{url}/health-check")[1]["status"] == "READY")
    ticks = served.printed().count("tick")
    ask(f"{url}/predictions/two", {**hooked, "input": {"seconds": 60}}, "PUT", Prefer="respond-async")
    wait_until(lambda: served.printed().count("tick") > ticks)  # a runtime forgets a cancellation that comes sooner
    assert ask(f"{url}/health-check")[1]["status"] == "BUSY"
    assert ask(f"{url}/predictions/two/cancel", {})[0] == 200
    wait_until(lambda: json.loads(hooks.got[-1][1])["status"] == "canceled")
    wait_until(lambda: ask(f"{url}/health-check")[1]["status"] == "READY")


def test_a_running_prediction_does_not_delay_the_end(images, serve):
    served = serve(images("slow", "0.9.26"))
    url = served.url()
    ask(f"{url}/predictions", {"input": {"seconds": 600, "stubborn": True}}, Prefer="respond-async")
    began = time.monotonic()
    assert served.end() == -signal.SIGINT
    assert time.monotonic() - began < 12


@each_runtime
def test_files_go_where_the_upload_url_says(images, serve, hooks, version):
    served = serve(images("files", version), "--upload-url", f"{hooks.url}/up/")
    status, answer = ask(f"{served.url()}/predictions", {
        **HOOKED, "input": {"count": 1, "size": 1000}, "webhook": f"{hooks.url}/hook"},
        Prefer="respond-async")
    assert status == 202, answer
    wait_until(lambda: any(path == "/hook" for path, _ in hooks.got))
    assert [len(body) for path, body in hooks.got if path.startswith("/up/")] == [1000]
    assert "/up/" in json.dumps(json.loads(hooks.got[-1][1])["output"])


def test_streams_keep_their_places(images, serve):
    served = serve(images("logs", "0.9.26"))
    status, _ = ask(f"{served.url()}/predictions", {"input": {"lines": 200, "errors": True}})
    assert status == 200
    assert served.end() == -signal.SIGINT
    assert re.findall(r"(?m)^(\d{8}) x", served.out.read_text()) == [f"{number:08d}" for number in range(0, 200, 2)]
    assert re.findall(r"(?m)^(\d{8}) x", served.text()) == [f"{number:08d}" for number in range(1, 200, 2)]


def test_what_the_newest_runtime_logs_is_passed_on(images, serve):
    served = serve(images("logs", "0.23.1"))
    ask(f"{served.url()}/predictions", {"input": {"lines": 3}})
    served.wait_for("00000002 x")
    assert "setup says hello" in served.text() and "coglet" in served.text()


def test_a_taken_port_is_said_before_anything_is_built(serve, tmp_path):
    shutil.copytree(ROOT / "tests" / "models" / "echo", tmp_path / "echo")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        served = serve(port=port, folder=tmp_path / "echo")
        assert served.process.wait(30) == 2
    assert served.text().splitlines() == [f"error: port {port} is taken at 127.0.0.1",
                                          "hint: -p PORT names another one, -p 0 takes a free one"]


def test_two_serve_side_by_side_but_not_on_one_port(images, serve):
    image = images("echo", "0.23.1")
    one, two = serve(image), serve(image)
    assert one.url() != two.url()
    third = serve(image, port=one.port)
    assert third.process.wait(30) == 2 and "is taken at 127.0.0.1" in third.text()
    assert ask(f"{one.url()}/health-check")[0] == ask(f"{two.url()}/health-check")[0] == 200
    assert (one.end(), two.end()) == (-signal.SIGINT, -signal.SIGINT)


@each_runtime
def test_a_failed_setup_is_told_and_the_server_stays(images, serve, version):
    served = serve(images("badsetup", version), "-e", "BADSETUP=fail")
    url = served.url()
    assert "warning: Model setup failed" in served.text() and "the weights are not there" in served.text()
    assert ask(f"{url}/health-check")[1]["status"] == "SETUP_FAILED"
    ask_last(f"{url}/shutdown", {})
    assert served.process.wait(30) == 5


def test_a_setup_that_takes_longer_than_it_may(images, serve):
    served = serve(images("badsetup", "0.9.26"), "-e", "BADSETUP=hang", "--setup-timeout", "2")
    assert served.process.wait(30) == 5 and "error: Timed out: setup took longer than 2 seconds" in served.text()


def test_a_container_that_ends_during_its_setup(images, serve):
    served = serve(images("badsetup", "0.23.1"), "-e", "BADSETUP=hang")
    served.wait_for("loading the weights")
    [container] = list_publishing(served.port)
    make_image.Engine().call("POST", f"/containers/{container}/kill")
    assert served.process.wait(30) == 5
    assert re.search("error: setup failed: the container .*137.*; last log line: loading the weights", served.text())


def test_an_unhealthy_model_is_served(images, serve, tmp_path):
    (tmp_path / "predict.py").write_text(
        "from cog import BasePredictor\n\n\nclass Predictor(BasePredictor):\n    def healthcheck(self) -> bool:\n"
        "        return False\n\n    def predict(self) -> str:\n        return 'all the same'\n")
    served = serve(images("echo", "0.23.1"), "-v", f"{tmp_path}/predict.py:/src/predict.py:ro")
    assert ask(f"{served.url()}/health-check")[1]["status"] == "UNHEALTHY"
    assert ask(f"{served.url()}/predictions", {"input": {}})[1]["output"] == "all the same"
    assert "warning: " in served.text()
    assert served.end() == -signal.SIGINT


@pytest.mark.parametrize("number, version", [
    (signal.SIGINT, "0.23.1"), (signal.SIGTERM, "0.23.1"), (signal.SIGKILL, "0.23.1"), (signal.SIGHUP, "0.23.1"),
    (signal.SIGINT, "0.16.12"), (signal.SIGTERM, "0.9.26")])
def test_an_end_during_setup_leaves_nothing_and_is_no_failure(images, serve, number, version):
    served = serve(images("badsetup", version), "-e", "BADSETUP=hang")
    wait_until(lambda: "loading the weights" in served.printed(), 60)
    assert len(list_publishing(served.port)) == 1
    began = time.monotonic()
    assert served.end(number) == -number
    assert time.monotonic() - began < 10
    wait_until(lambda: not list_publishing(served.port))
    assert not re.search("Traceback|KeyboardInterrupt|failed|Shutting down", served.printed())


def test_a_killed_client_leaves_neither_container_nor_server(images, serve):
    served = serve(images("echo", "0.9.26"))
    served.url()
    assert served.end(signal.SIGKILL) == -signal.SIGKILL
    wait_until(lambda: not list_publishing(served.port) and not is_open(served.port))


def test_a_model_that_dies_while_it_serves(images, serve):
    served = serve(images("echo", "0.23.1"))
    served.url()
    [container] = list_publishing(served.port)
    make_image.Engine().call("POST", f"/containers/{container}/kill")
    assert served.process.wait(30) == 6
    assert re.search("error: the model is gone: the container .*exit code 137", served.text())


def test_a_reader_of_the_log_that_goes_away_ends_it(images, serve):
    reading, writing = os.pipe()
    served = serve(images("logs", "0.9.26"), stdout=writing)
    os.close(writing)
    url = served.url()
    os.close(reading)
    ask_last(f"{url}/predictions", {"input": {"lines": 5}})
    assert served.process.wait(30) == -signal.SIGPIPE


def test_a_stdout_that_was_never_open_keeps_no_one_from_serving(images, command, tmp_path, same_network):
    script = 'exec "$@" >&-'
    image = images("logs", "0.9.26")
    served = Served(["sh", "-c", script, "sh", *command], tmp_path, image, "-p", "0")
    url = served.url()
    assert ask(f"{url}/predictions", {"input": {"lines": 5}})[0] == 200
    assert ask(f"{url}/predictions", {"input": {"lines": 5}})[0] == 200
    assert served.end() == -signal.SIGINT


def test_no_home_is_no_obstacle(images, command, tmp_path, same_network):
    served = Served(["env", "-u", "HOME", *command], tmp_path, images("echo", "0.23.1"), "-p", "0")
    assert ask(f"{served.url()}/health-check")[0] == 200
    assert served.end() == -signal.SIGINT


@pytest.mark.parametrize("address", ["127.0.0.5", pytest.param("::1", marks=needs_ipv6)])
def test_the_address_decides_who_reaches_it(images, serve, address):
    served = serve(images("echo", "0.23.1"), "--host", address)
    url = served.wait_for(r"(?m)^Serving at (http://\S+)$")[1]
    assert address in url
    assert ask(f"{url}/health-check")[0] == 200 and not is_open(served.port)


def test_quiet_it_says_nothing_of_its_own(images, serve):
    served = serve(images("logs", "0.9.26"), "-q")
    wait_until(lambda: is_open(served.port) and "setup says hello" in served.out.read_text(), 60)
    assert served.end() == -signal.SIGINT
    assert "Serving" not in served.text() and "Starting Docker" not in served.text()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # has threads, and is forked
def test_a_terminal_ends_it_with_control_c(images, command, tmp_path):
    image = images("echo", "0.23.1")
    pid, terminal = os.forkpty()
    if pid == 0:
        os.chdir(tmp_path)
        os.execvp(command[0], [*command, "serve", image, "-p", "0"])
    seen = b""
    try:
        while b"Serving at http://localhost:" not in seen:
            seen += os.read(terminal, 4096)
        os.write(terminal, b"\x03")
        while True:
            seen += os.read(terminal, 4096)
    except OSError:
        pass
    finally:
        os.close(terminal)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGINT, seen.decode()


CONCURRENT = '''\
import asyncio

from cog import BasePredictor


class Predictor(BasePredictor):
    async def predict(self, seconds: float = 0.0) -> str:
        await asyncio.sleep(seconds)
        return open("words.txt").read()
'''


@pytest.fixture
def project(tmp_path):
    """A model in a folder that makes two predictions at once; its images are removed in the end."""
    folder = tmp_path / "together"
    folder.mkdir()
    (folder / "predict.py").write_text(CONCURRENT)
    (folder / "words.txt").write_text("before")
    (folder / "cog.yaml").write_text('build:\n  python_version: "3.11"\nconcurrency:\n  max: 2\n'
                                     'predict: "predict.py:Predictor"\n')
    yield folder
    engine = make_image.Engine()
    filters = json.dumps({"label": [f"cog.pyz.project={folder}"]})
    for image in engine.call("GET", "/images/json", {"filters": filters}):
        engine.remove_image(image["Id"])


def test_a_folder_is_built_once_mounted_and_as_concurrent_as_it_says(serve, project):
    served = serve(folder=project)
    url = served.url()
    assert "Building Docker image from environment in cog.yaml..." in served.text()
    answers = []

    def predict():
        answer = ask(f"{url}/predictions", {"input": {"seconds": 4}})
        while answer[0] == 409:  # now and then the runtime refuses a second prediction that comes at the same moment
            answer = ask(f"{url}/predictions", {"input": {"seconds": 4}})
        answers.append(answer)

    threads = [threading.Thread(target=predict) for _ in range(2)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(status, answer["output"]) for status, answer in answers] == [(200, "before")] * 2
    assert time.monotonic() - began < 7.5, "one after the other"
    (project / "words.txt").write_text("after")
    assert ask(f"{url}/predictions", {"input": {}})[1]["output"] == "after"
    assert served.end() == -signal.SIGINT
    again = serve(folder=project)
    assert ask(f"{again.url()}/predictions", {"input": {}})[1]["output"] == "after"
    assert "Building" not in again.text()
    assert again.end() == -signal.SIGINT


def test_an_interrupted_build_serves_nothing(serve, project):
    config = project / "cog.yaml"
    config.write_text(config.read_text().replace("build:\n", f'build:\n  run: ["sleep 60; echo {time.time()}"]\n'))
    served = serve(folder=project)
    served.wait_for("sleep 60")
    assert served.end() == -signal.SIGINT
    assert list_publishing(served.port) == []


def test_a_folder_that_the_engine_does_not_see_is_copied(serve, project, command, tmp_path):
    hidden = tmp_path / "elsewhere"
    hidden.mkdir()
    script = (f'mount -t tmpfs none {hidden} && cp {project}/*.* {hidden} && cd {hidden} && exec "$@"')
    served = Served(["unshare", "-m", "sh", "-c", script, "sh", *command], tmp_path, "-p", "0", "--debug")
    url = served.wait_for(READY, 200)[1]
    assert ask(f"{url}/predictions", {"input": {}})[1]["output"] == "before"
    assert "it is copied into the container" in served.text()
    assert served.end() == -signal.SIGINT
    for image in make_image.Engine().call("GET", "/images/json", {"filters": json.dumps(
            {"label": [f"cog.pyz.project={hidden}"]})}):
        make_image.Engine().remove_image(image["Id"])
