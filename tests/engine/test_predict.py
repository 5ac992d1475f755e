"""`cog.pyz predict IMAGE` on a real engine with the runtimes that images carry."""
from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time

import make_image
import pytest
from cutter import Cutter
from reading import read_until

VERSIONS = make_image.VERSIONS
NEWEST = VERSIONS[-1]
each_version = pytest.mark.parametrize("version", VERSIONS)


@each_version
def test_a_string_stands_alone_on_stdout(cog, images, version):
    done = cog("predict", images("echo", version), "-i", "text=a cat", "-i", "repeat=2")
    assert (done.code, done.out) == (0, "a cat a cat\n")
    assert "Running prediction..." in done.err


@each_version
def test_every_kind_of_input_arrives(cog, images, version, tmp_path):
    (tmp_path / "photo x.jpg").write_bytes(b"\xff\xd8" * 500)
    pairs = ["needed=@name.txt", "count=3000000000", "scale=0.1", "flag=true", "mode=good", "level=3", "words=a",
             "words=b", "numbers=[1,2]", "file=@photo x.jpg", "secret=hush"]
    (tmp_path / "name.txt").write_text("from a file")
    done = cog("predict", images("kinds", version), *[word for pair in pairs for word in ("-i", pair)])
    assert done.code == 0, done.err
    got = json.loads(done.out)
    assert got.pop("file")[1] == 1000
    assert got == {"needed": "from a file", "text": "a", "count": 3000000000, "scale": 0.1, "flag": True,
                   "mode": "good", "level": 3, "words": ["a", "b"], "numbers": [1, 2], "secret": 4}
    assert "hush" not in done.err


@each_version
def test_json_in_and_out(cog, images, version):
    done = cog("predict", images("echo", version), "--json", "-", stdin=b'{"text": "hi", "repeat": 2}')
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert (report["status"], report["output"], report["error"]) == ("succeeded", "hi hi", None)


@each_version
def test_files_in_and_out(cog, images, version, tmp_path):
    content = os.urandom(3_000_000)
    (tmp_path / "in.dat").write_bytes(content)
    done = cog("predict", images("files", version), "-i", "file=@in.dat", "-i", "answer=copy", "-o", "got.dat")
    assert done.code == 0, done.err
    assert done.out == ""
    assert (tmp_path / "got.0.dat").read_bytes() == content
    assert "Written output to: got.0.dat" in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["got.0.dat", "in.dat"]


@each_version
def test_many_files_keep_their_order(cog, images, version, tmp_path):
    done = cog("predict", images("files", version), "-i", "count=20", "-i", "size=64", "-i", "suffix=.dat")
    assert done.code == 0, done.err
    assert "FileOutput" not in done.err
    for number in range(20):
        block = hashlib.sha256(b"%d" % number).digest()
        assert (tmp_path / f"output.{number}.dat").read_bytes() == block * 2


@each_version
def test_files_at_any_depth(cog, images, version, tmp_path):
    done = cog("predict", images("object", version), "-i", "text=yes", "-i", "parts=2")
    assert done.code == 0, done.err
    assert json.loads(done.out) == {
        "text": "yes", "score": 0.5, "file": "output.file.txt",
        "parts": [{"name": "part 0", "file": "output.parts.0.file.txt"},
                  {"name": "part 1", "file": "output.parts.1.file.txt"}]}
    assert (tmp_path / "output.parts.1.file.txt").read_text() == "yes 1"


@each_version
def test_text_is_shown_as_it_comes(command, images, version, tmp_path):
    child = subprocess.Popen([*command, "predict", images("stream", version), "-i", "text=a b c", "-i", "delay=1.2"],
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=tmp_path)
    with child.stdout:
        first = child.stdout.read(1)
        began = time.monotonic()
        rest = child.stdout.read()
    assert (first, rest) == (b"a", b" b c\n")
    assert time.monotonic() - began > 0.5, "all of it came at once"
    assert child.wait() == 0


@each_version
def test_what_was_shown_before_a_failure_stays(cog, images, version):
    done = cog("predict", images("stream", version), "-i", "text=a b c", "-i", "fail_after=2", "-i", "delay=0.8")
    assert (done.code, done.out) == (1, "a b\n")
    assert "failed as asked" in done.err


@each_version
def test_every_log_line_comes_and_a_bar_is_one_line(cog, images, version):
    done = cog("predict", images("logs", version), "-i", "lines=5000", "-i", "errors=true", "-i", "bar=true")
    assert (done.code, done.out) == (0, "printed 5000\n")
    assert sorted(re.findall(r"(?m)^\d{8} (?=x)", done.err)) == [f"{number:08d} " for number in range(5000)]
    assert "setup says hello" in done.err
    assert "100%|####################|" in done.err
    if version == NEWEST:  # an older runtime ends a line at every carriage return itself
        assert done.err.count("%|") == 1


@each_version
@pytest.mark.parametrize("ending, limit", [("fail", ()), ("wait", ("--timeout", "2"))])
def test_the_last_words_of_a_prediction_that_fails_are_shown(cog, images, version, ending, limit):
    words = [f"about to {ending}", "the last words"]
    done = cog("predict", images("stuck", version), "-i", f"kind={ending}", *limit)
    assert done.code == 1
    assert [line.strip() for line in done.err.splitlines() if line.strip() in words] == words


@each_version
@pytest.mark.parametrize("fail_after", ["-1", "3"])
def test_text_and_log_lines_come_once_each(cog, images, version, fail_after):
    done = cog("predict", images("stream", version), "-i", "text=a b c d", "-i", "delay=0.3", "-i", "talk=true", "-i",
               f"fail_after={fail_after}")
    assert (done.code, done.out) == ((0, "a b c d\n") if fail_after == "-1" else (1, "a b c\n"))
    assert re.findall("next: .", done.err) == ["next: a", "next: b", "next: c", "next: d"]


@pytest.mark.parametrize("version, kind, message", [
    ("0.16.12", "nan", "Error: Out of range float values are not JSON compliant"),
    ("0.9.26", "nan", "Error: Out of range float values are not JSON compliant"),
    ("0.16.12", "close", "the model has closed its stdout and stderr: its runtime cannot end the prediction any more"),
    ("0.9.26", "shut", "the model's runtime broke down at the end of the prediction: ValueError: I/O operation"),
])
def test_a_prediction_that_its_runtime_cannot_end(cog, images, version, kind, message):
    done = cog("predict", images("stuck", version), "-i", f"kind={kind}")
    assert (done.code, done.out) == (6, "")
    assert message in done.err.splitlines()[-2 if "hint: " in done.err.splitlines()[-1] else -1]


def test_inputs_are_checked_before_anything_starts(cog, images):
    done = cog("predict", images("kinds", NEWEST), "-i", "cuont=1", "-i", "scale=2")
    assert done.code == 2
    assert 'unknown input "cuont"' in done.err
    assert "count" in done.err
    assert "Starting" not in done.err


@each_version
def test_without_a_label_the_running_model_is_asked(cog, images, version):
    engine = make_image.Engine()
    tag = f"cog-test/unlabelled:{version}"
    make_image.build(engine, tag, {"Dockerfile": f"FROM {images('echo', version)}\n".encode()},
                     {"run.cog.openapi_schema": "", "cog.test": "images"})
    assert cog("predict", tag, "-i", "repeat=2").out == "world world\n"
    done = cog("predict", tag, "-i", "repeat=none")
    assert done.code == 2 and 'invalid input "repeat": expected integer, got string' in done.err


@each_version
@pytest.mark.parametrize("mode, message", [
    ("fail", "the weights are not there"), ("exit", "setup"), ("hang", "Timed out"),
])
def test_a_bad_setup_says_why(cog, images, version, mode, message):
    limit = "10" if mode == "hang" else "100"
    done = cog("predict", images("badsetup", version), "-e", f"BADSETUP={mode}", "--setup-timeout", limit)
    assert done.code == 5, done.err
    assert message in done.err
    if mode == "hang" or (mode == "fail" and version != NEWEST):  # else the runtime may lose what it had not passed on
        assert "loading the weights" in done.err
    assert "Traceback (most recent call last):\n  File \"cogpredict" not in done.err


@each_version
def test_a_model_whose_memory_runs_out_while_its_server_lives_on(command, images, version, tmp_path):
    engine = make_image.Engine()
    if any(part["Name"] == "Podman Engine" for part in engine.call("GET", "/version").get("Components") or ()):
        pytest.skip("Podman reports no such event")
    child = subprocess.Popen([*command, "predict", images("badsetup", version), "-e", "BADSETUP=hog"], cwd=tmp_path,
                             stderr=subprocess.PIPE)
    seen = read_until(child, b"loading the weights")
    filters = {"label": ["cog.pyz.run"], "ancestor": [images("badsetup", version)]}
    limits = {"Memory": 1 << 28, "MemorySwap": 1 << 28}
    for container in engine.call("GET", "/containers/json", {"filters": json.dumps(filters)}):
        try:
            engine.call("POST", f"/containers/{container['Id']}/update", None, limits)
        except make_image.EngineFailed as error:
            child.kill()
            pytest.skip(f"this engine limits no memory: {error}")
    seen += child.communicate(timeout=60)[1]
    assert child.returncode == 5 and b"setup failed" in seen and b"OOMKilled" in seen


@each_version
def test_a_prediction_that_takes_too_long(cog, images, version):
    began = time.monotonic()
    done = cog("predict", images("slow", version), "-i", "seconds=60", "--timeout", "1")
    assert done.code == 1
    assert "Timed out: the prediction took longer than 1 seconds" in done.err
    assert time.monotonic() - began < 40


@each_version
def test_a_long_prediction_is_waited_for(cog, images, version):
    done = cog("predict", images("slow", version), "-i", "seconds=13")
    assert (done.code, done.out) == (0, "slept\n"), done.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stubborn", ["false", "true"])
@each_version
def test_an_interruption_ends_everything(command, images, version, number, stubborn, tmp_path):
    child = subprocess.Popen(
        [*command, "predict", images("slow", version), "-i", "seconds=60", "-i", f"stubborn={stubborn}", "-i",
         f"busy={stubborn}"], stderr=subprocess.PIPE, cwd=tmp_path)
    read_until(child, b"Running prediction")
    time.sleep(0.3)
    began = time.monotonic()
    child.send_signal(number)
    child.communicate(timeout=30)
    assert child.returncode == -number
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("moment", [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5])
def test_a_kill_at_any_moment_leaves_nothing(command, images, moment, tmp_path):
    child = subprocess.Popen([*command, "predict", images("slow", NEWEST), "-i", "seconds=60", "-i", "stubborn=true"],
                             stderr=subprocess.DEVNULL, cwd=tmp_path)
    time.sleep(moment)
    child.kill()
    child.wait()
    assert list(tmp_path.iterdir()) == []


def test_mistakes_have_their_exit_codes(cog, images):
    for arguments, code, message in [
        (("predict", "text=cat"), 2, "Did you forget `-i`?"),
        (("predict", "no-such-image-here", "--pull", "never"), 3, "image not found"),
        (("predict", "python:3.11-slim"), 2, "image python:3.11-slim: image is not a Cog model"),
        (("predict", images("echo", NEWEST), "-o", "missing/x"), 7, "Output path is not writable"),
        (("predict", images("echo", NEWEST), "-i", "text=@missing.txt"), 2, "no such file"),
        (("predict", images("echo", NEWEST), "--engine", "unix:///nowhere.sock"), 3, "/nowhere.sock"),
        (("predict", images("echo", NEWEST), "--gpus", "all"), 3, "GPU"),
        (("predict", images("echo", NEWEST), "--platform", "linux/s390x", "--pull", "never"), 3, "for linux/s390x"),
        (("predict", images("echo", NEWEST), "--platform", "linux/s390x"), 3, "is for amd64, not for linux/s390x"),
        (("predict", images("echo", NEWEST), "--network", "no-such-network"), 3, "no-such-network"),
        (("predict", images("echo", NEWEST), "--user", "no-such-user"), 3, "no-such-user"),
        (("predict", images("echo", NEWEST), "--shm-size", "much"), 2, "argument --shm-size: 'much' is not a size"),
        (("predict", images("echo", NEWEST), "--timeout", "nan"), 2, "argument --timeout: 'nan' is not a number of s"),
    ]:
        done = cog(*arguments)
        assert done.code == code, (arguments, done)
        assert message in done.err
        assert "Traceback" not in done.err and "Starting Docker" not in done.err


def test_a_label_that_asks_for_a_gpu_is_tried_without(cog, images):
    tag = "cog-test/gpu:1"
    label = '{"build":{"gpu":true,"python_version":"3.11"},"predict":"predict.py:Predictor"}'
    make_image.build(make_image.Engine(), tag, {"Dockerfile": f"FROM {images('echo', NEWEST)}\n".encode()},
                     {"run.cog.config": label, "cog.test": "images"})
    done = cog("predict", tag, "-i", "text=x")
    assert (done.code, done.out) == (0, "x\n")
    assert done.err.count("Missing device driver, re-trying without GPU") == 1
    assert "device driver" not in cog("predict", tag, "--cpu").err


@each_version
@pytest.mark.parametrize("network", ["none", "host"])
def test_any_network_will_do(cog, images, version, network, tmp_path):
    (tmp_path / "in.txt").write_text("x" * 1000)
    done = cog("predict", images("files", version), "-i", "file=@in.txt", "--network", network)
    assert done.code == 0, done.err
    assert (tmp_path / "output.0.txt").read_text().startswith("1000 ")


def test_another_user_an_environment_and_a_volume(cog, images, tmp_path):
    (tmp_path / "vars").write_text("BADSETUP=ok\n")
    done = cog("predict", images("badsetup", NEWEST), "--env-file", "vars", "--user", "1234", "-v", "./:/data:ro")
    assert (done.code, done.out) == (0, "ok\n"), done.err


def test_a_dry_run_prints_the_plan(cog, images):
    done = cog("predict", images("kinds", NEWEST), "-i", "needed=x", "-i", "secret=hush", "-e", "TOKEN=t0k",
               "--dry-run")
    assert done.code == 0, done.err
    plan = json.loads(done.out)
    assert plan["image"] == images("kinds", NEWEST) and plan["input"]["needed"] == "x"
    assert "hush" not in done.out and "t0k" not in done.out


class UnixConnection(http.client.HTTPConnection):
    """The engine over the socket that DOCKER_HOST names."""

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(os.environ["DOCKER_HOST"].partition("://")[2])


def test_a_carried_tar_is_loaded(cog, images, tmp_path):
    connection = UnixConnection("engine")
    connection.request("GET", f"/images/get?names={images('echo', NEWEST)}")
    with gzip.open(tmp_path / "m.tar.gz", "wb", compresslevel=1) as packed:
        shutil.copyfileobj(connection.getresponse(), packed)
    connection.close()
    done = cog("predict", "./m.tar.gz", "-i", "text=carried")
    assert (done.code, done.out) == (0, "carried\n"), done.err
    done = cog("predict", "-", "-i", "text=piped", stdin=(tmp_path / "m.tar.gz").read_bytes())
    assert (done.code, done.out) == (0, "piped\n"), done.err


@pytest.mark.parametrize("command_line, code, message", [
    ('["sh", "-c", "echo bye; exit 3"]', 5, "setup failed: the container ended with exit code 3; last log line: bye"),
    ('["/no/such/program"]', None, "o such file or directory"),  # of the engine or of the container's init
    ('["sh", "-c", "exec python -m cog.server.http"]', 0, "Running prediction..."),
    ('["sh", "-c", "grep -q init /proc/1/comm && echo exec /sbin/docker-init: permission denied && exit 1; '
     'exec python -m cog.server.http"]', 0, "Running prediction..."),  # what SELinux may do, seen from here
])
def test_an_image_with_a_command_of_its_own(cog, images, command_line, code, message):
    config = '{"build":{"python_version":"3.11"},"predict":"predict.py:Predictor"}'
    make_image.build(make_image.Engine(), "cog-test/command:1",
                     {"Dockerfile": f"FROM {images('echo', NEWEST)}\nCMD {command_line}\n".encode()},
                     {"run.cog.config": config, "cog.test": "images"})
    done = cog("predict", "cog-test/command:1")
    assert done.code == code or (code is None and done.code in (3, 5)), done.err  # Podman looks for it at once
    assert message in done.err and "Traceback" not in done.err


def test_a_stdout_that_closes_early_is_no_traceback(command, images, tmp_path):
    child = subprocess.Popen([*command, "predict", images("echo", NEWEST)], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, cwd=tmp_path)
    with child.stderr:
        child.stdout.close()
        err = child.stderr.read()
    assert child.wait() == -signal.SIGPIPE
    assert b"Traceback" not in err


@pytest.mark.parametrize("closed, code", [("<&-", 0), ("2>&-", 0), (">&-", 7), ("<&- >&- 2>&-", 7)])
def test_a_stream_that_is_closed_from_the_start(command, images, tmp_path, closed, code):
    words = " ".join([*command, "predict", images("echo", NEWEST)])
    done = subprocess.run(["sh", "-c", f"exec {words} {closed}"], capture_output=True, cwd=tmp_path, timeout=60)
    assert (done.returncode, done.stdout) == (code, b"world\n" if code == 0 else b"")
    assert b"Traceback" not in done.stderr


def test_a_tar_that_is_none(cog, tmp_path):
    (tmp_path / "m.tar").write_text("no tar")
    done = cog("predict", "./m.tar")
    assert done.code == 3 and "loading ./m.tar: " in done.err and "docker save" in done.err


def test_no_tar_is_waited_for_on_a_terminal(command):
    leader, terminal = os.openpty()
    done = subprocess.run([*command, "predict", "-"], stdin=terminal, capture_output=True, timeout=30)
    os.close(leader)
    os.close(terminal)
    assert done.returncode == 2 and b"stdin is a terminal" in done.stderr


def test_a_full_disk_is_an_output_error(cog, images):
    done = cog("predict", images("echo", NEWEST), "-o", "/dev/full")
    assert done.code == 7 and "No space left" in done.err.replace("no space", "No space")


@pytest.mark.parametrize("seconds, until, pause", [("30", "Starting", 0), ("30", "Starting", 1),
                                                   ("0", "Running prediction", 1)])
def test_an_engine_that_vanishes(command, images, tmp_path, seconds, until, pause):
    engine = Cutter(tmp_path / "engine.sock")
    child = subprocess.Popen([*command, "predict", images("slow", NEWEST), "--engine", f"unix://{engine.path}", "-e",
                              f"SLOW_SETUP={seconds}", "-i", "seconds=30"], stderr=subprocess.PIPE, cwd=tmp_path)
    seen = read_until(child, until.encode())
    time.sleep(pause)  # after a second the helper runs, which ends the container; before, the guardian does
    engine.cut()
    seen += child.communicate(timeout=20)[1]
    assert child.returncode == 6, seen
    assert b"the way to the model was cut" in seen and b"Traceback" not in seen
    assert list(tmp_path.iterdir()) == []
    engine.listen()
