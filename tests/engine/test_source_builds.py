"""Models in folders in trying circumstances: secrets, private bases, proxies, wheels, many files, full disks."""
from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path

import make_image
import pytest
from processproject import list_processes
from reading import read_until

import cogpredict

ROOT = Path(__file__).resolve().parents[2]
BASE = "python:3.11-slim"
NOT_FOR_OTHERS = "k3y-nobody-may-see"


def change(project: Path, old: str, new: str, name: str = "cog.yaml") -> None:
    path = project / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def list_images(kind: str, value: str) -> list[dict[str, object]]:
    """The engine's images by a filter."""
    found = make_image.Engine().call("GET", "/images/json", {"filters": json.dumps({kind: [value]})})
    assert isinstance(found, list)
    return found


@pytest.fixture
def name():
    """A name for an image, which is removed afterwards."""
    name = f"cog-test/builds-{os.urandom(4).hex()}"
    yield name
    engine = make_image.Engine()
    for image in list_images("reference", name):
        engine.remove_image(str(image["Id"]))


def all_of(image: str, word: str) -> tuple[bool, bool]:
    """Whether a word is in an image's history or config, and whether it is anywhere in its layers."""
    engine = make_image.Engine()
    said = json.dumps([engine.call("GET", f"/images/{image}/history", {}),
                       engine.call("GET", f"/images/{image}/json", {})])
    address = cogpredict.parse_address(os.environ["DOCKER_HOST"])
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address.path)
    with connection, connection.makefile("rb") as tar:
        connection.sendall(f"GET /images/{image}/get HTTP/1.0\r\n\r\n".encode())
        last, found = b"", False
        while data := tar.read(1 << 20):
            found = found or word.encode() in last + data
            last = data[-100:]
    return word in said, found


def test_a_secret_is_in_no_layer_and_no_history(model, name):
    run = model("echo")
    fresh = os.urandom(4).hex()  # an engine keeps the step of an earlier run, whatever the secret was
    change(run.project, "build:\n", "build:\n  run:\n"
           f"  - command: test $(wc -c < /k) = 18 && touch /was-there && echo {fresh}\n"
           "    mounts: [{type: secret, id: key, target: /k}]\n")
    code, _, err = run("build", "-t", name, "--secret", "id=key,env=KEY", KEY="too short")
    assert code == 4 and "too short" not in err, err
    code, out, err = run("build", "-t", name, "--secret", "id=key,env=KEY", KEY=NOT_FOR_OTHERS)
    assert code == 0 and NOT_FOR_OTHERS not in out + err, err
    assert all_of(name, NOT_FOR_OTHERS) == (False, False)
    assert all_of(name, "was-there") == (True, True), "the search finds what is there"


def test_a_step_may_do_without_a_secret_that_is_not_given(model, name):
    run = model("echo")
    change(run.project, "build:\n", "build:\n  run:\n"
           f"  - command: test ! -s /k && echo {os.urandom(4).hex()}\n"
           "    mounts: [{type: secret, id: key, target: /k}]\n")
    code, out, err = run("predict", "-i", "text=a")
    assert (code, out) == (0, "a\n") and err.count("--secret id=key,src=FILE") == 1, err
    code, _, err = run("build", "-t", name)
    assert code == 0 and err.count("--secret id=key,src=FILE") == 1, err


def test_the_image_that_is_asked_for_inputs_gets_the_secrets_too_and_no_train_that_cannot_be_read(model, name):
    run = model("echo")
    change(run.project, "build:\n", "build:\n  run:\n"
           f"  - command: test -s /k && echo {os.urandom(4).hex()}\n"
           "    mounts: [{type: secret, id: key, target: /k}]\n")
    with (run.project / "cog.yaml").open("a") as config:
        config.write("train: train.py:train\n")
    (run.project / "train.py").write_text("def train(steps: int): ...\n")
    (run.project / "predict.py").write_text(
        "from encodings.aliases import aliases\nfrom cog import BasePredictor, Input\n"
        "class Predictor(BasePredictor):\n    def predict(self, text: str = Input(choices=sorted(aliases))) -> str:\n"
        "        return text\n")
    code, _, err = run("build", "-t", name, "--secret", "id=key,env=KEY", KEY=NOT_FOR_OTHERS)
    assert code == 0 and "goes without it" not in err and err.count("trainings do not") == 1, err
    code, _, err = run("predict", name, "-i", "text=no codec")
    assert code == 2 and "must be one of: 037, " in err, err


def test_credentials_of_an_index_stay_out_of_the_image(model, name):
    asked = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"
    index = subprocess.run([sys.executable, "-c", asked],
                           capture_output=True, text=True, check=True).stdout.strip()
    run = model("echo")
    change(run.project, "build:\n", f"build:\n  run: ['echo {os.urandom(4).hex()}']\n")
    url = index.replace("://", f"://me:{NOT_FOR_OTHERS}@")
    code, out, err = run("build", "-t", name, "--no-cache", PIP_INDEX_URL=url)
    assert code == 0 and NOT_FOR_OTHERS not in out + err, err
    assert all_of(name, NOT_FOR_OTHERS) == (False, False)


def test_proxies_reach_the_steps_and_stay_out_of_the_image(model, name):
    run = model("echo")
    assert run("build", "-t", name)[0] == 0  # what the runtime needs of the index is there: the proxy leads nowhere
    change(run.project, "build:\n", f"build:\n  run: ['touch /{name[-8:]}', 'echo PROXY=$http_proxy=$NO_PROXY']\n")
    proxy = f"http://me:{NOT_FOR_OTHERS}@127.0.0.1:9"
    docker = run.project.parent / "docker"
    docker.mkdir()
    (docker / "config.json").write_text('{"proxies": {"default": {"noProxy": "here"}}}')
    for command in (["build", "-t", name], ["predict", "--no-cache", "-i", "text=x"]):
        code, _, err = run(*command, http_proxy=proxy, DOCKER_CONFIG=str(docker))
        assert code == 0 and f"PROXY={proxy}=here" in err, err
    assert all_of(name, NOT_FOR_OTHERS) == (False, False)


def make_wheel(path: Path, module: str, text: str) -> None:
    """A wheel with one module."""
    stem = f"{module}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{module}.py", text)
        wheel.writestr(f"{stem}/METADATA", f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        wheel.writestr(f"{stem}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{stem}/RECORD", f"{module}.py,,\n{stem}/METADATA,,\n{stem}/WHEEL,,\n{stem}/RECORD,,\n")


def test_a_local_wheel_is_installed_and_a_changed_one_anew(model):
    run = model("echo")
    (run.project / "wheels").mkdir()
    wheel = run.project / "wheels" / "tinytool-1.0-py3-none-any.whl"
    make_wheel(wheel, "tinytool", "WORD = 'first'\n")
    (run.project / "requirements.txt").write_text(f"./wheels/{wheel.name}\n")
    change(run.project, "build:\n", "build:\n  python_requirements: requirements.txt\n")
    change(run.project, '" ".join([text] * repeat)', "__import__('tinytool').WORD", "predict.py")
    code, out, err = run("predict")
    assert (code, out) == (0, "first\n"), err
    make_wheel(wheel, "tinytool", "WORD = 'second'\n")
    (run.project / "requirements.txt").write_text(f"tinytool @ file://wheels/{wheel.name}\n")
    code, out, err = run("predict")
    assert (code, out) == (0, "second\n"), err


def test_an_input_of_another_packages_type_takes_what_json_can_say(model):
    run = model("echo")
    change(run.project, "text: str = Input", "text: Space = Input", "predict.py")
    change(run.project, "from cog", "from types import SimpleNamespace as Space\nfrom cog", "predict.py")
    change(run.project, ", default=\"world\"", "", "predict.py")
    change(run.project, '" ".join([text] * repeat)', "text['b'][0]", "predict.py")
    code, out, err = run("predict", "-i", 'text={"b": ["word"]}')
    assert (code, out) == (0, "word\n"), err
    assert "type 'Space' is not in the project" in err


def test_twenty_thousand_files(model, name):
    run = model("echo")
    for folder in range(200):
        (run.project / f"data{folder}").mkdir()
        for file in range(100):
            (run.project / f"data{folder}" / f"{file}.txt").write_bytes(b"x" * 2800)
    count = "str(len(list(__import__('pathlib').Path('/src').rglob('*.txt'))))"
    change(run.project, '" ".join([text] * repeat)', count, "predict.py")
    code, out, err = run("predict")
    assert (code, out) == (0, "20000\n"), err
    code, _, err = run("build", "-t", name)
    assert code == 0, err
    began = time.monotonic()
    assert run("build", "-q", "-t", name)[0] == 0
    assert time.monotonic() - began < 30
    code, out, err = run("predict", name)
    assert (code, out) == (0, "20000\n"), err


def test_two_projects_of_one_name_leave_each_others_images_alone(model, tmp_path, name):
    run = model("echo")
    twin = tmp_path / "elsewhere" / "echo"
    shutil.copytree(run.project, twin)
    change(twin, '" ".join', '"-".join', "predict.py")
    command = [*(str(word) for word in run.command), "predict", "-i", "repeat=2"]
    other = subprocess.run(command, cwd=twin, capture_output=True, text=True, timeout=300)
    assert (other.returncode, other.stdout) == (0, "world-world\n"), other.stderr
    change(run.project, "build:\n", 'build:\n  run: ["touch /mine"]\n')
    assert run("predict", "-i", "repeat=2")[1] == "world world\n"
    other = subprocess.run(command, cwd=twin, capture_output=True, text=True, timeout=300)
    assert other.stdout == "world-world\n" and "Building" not in other.stderr
    run.also(twin)
    mine = [run("build", "-q", "-t", name)[1].strip() for _ in range(2)][1]
    subprocess.run([*command[:-3], "build", "-t", name], cwd=twin, check=True, timeout=300)
    engine = make_image.Engine()
    assert engine.call("GET", f"/images/{mine}/json", {})["RepoTags"] == [], "it stays, though its name is the other's"
    engine.remove_image(mine)


def test_a_schema_of_the_users_own_stands_for_the_source(model, tmp_path):
    run = model("echo")
    text = {"type": "string", "maxLength": 3}
    schema = {"components": {"schemas": {"Input": {"properties": {"text": text}}, "Output": {"type": "string"}}}}
    (tmp_path / "own.json").write_text(json.dumps(schema))
    own = str(tmp_path / "own.json")
    code, out, err = run("predict", "-i", "repeat=2", COG_OPENAPI_SCHEMA=own)
    assert code == 2 and 'unknown input "repeat"; valid inputs are: text' in err
    code, out, err = run("predict", "-i", "text=abcd", "--openapi-schema", own)
    assert code == 2 and "maximum string length is 3" in err
    code, out, err = run("predict", "-i", "text=abc", COG_OPENAPI_SCHEMA=own)
    assert (code, out) == (0, "abc\n"), err
    (tmp_path / "own.json").write_text("[]")
    code, out, err = run("predict", COG_OPENAPI_SCHEMA=own)
    assert code == 2 and "no schema of a model" in err and "Traceback" not in err


def test_a_full_disk_is_one_line_and_leaves_nothing_half_done(model, tmp_path, command):
    run = model("echo")
    full = tmp_path / "full"
    full.mkdir()
    run.also(full)
    script = (f'mount -t tmpfs -o size=32k none {full} && cp {run.project}/*.* {full} && cd {full} && '
              '{ dd if=/dev/zero of=fill bs=1k 2>/dev/null; TMPDIR="$PWD" "$@"; code=$?; ls -A . .cog; exit $code; }')
    for engine in ((), ("--engine", "none")):
        done = subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", *command, "predict", *engine],
                              capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=200)
        assert done.returncode in (4, 7) and "Traceback" not in done.stderr, done.stderr
        assert "no space left on device" in done.stderr.lower() and "a bug" not in done.stderr
        assert ".part" not in done.stdout and "venv/" not in done.stdout, done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_build_leaves_no_name_and_no_step(model, command, name, number):
    run = model("echo")
    change(run.project, "build:\n", 'build:\n  run: ["sleep 96"]\n')
    child = subprocess.Popen([*command, "build", "-t", name], cwd=run.project, stderr=subprocess.PIPE)
    with child.stderr:
        read_until(child, b"sleep 96")
        time.sleep(1)
        child.send_signal(number)
        assert child.wait(20) == -number
    time.sleep(2)
    deadline = time.monotonic() + 10
    while not make_image.Engine().is_podman() and (  # which lets a step that has begun come to its end
            left := [line for line in list_processes("sleep 96") if line.startswith("sleep")]):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    tags = [tag for image in make_image.Engine().call("GET", "/images/json", {}) for tag in image.get("RepoTags") or ()]
    assert not [tag for tag in tags if tag.startswith(name)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_export_leaves_no_image(model, command, number):
    def made():
        return {image["Id"] for image in list_images("reference", "cog-*:unlabelled") if image["Size"] > 1 << 29}

    run, before = model("echo"), made()
    change(run.project, "build:\n", f'build:\n  run: ["truncate -s 1G /big-{os.urandom(4).hex()}"]\n')
    child = subprocess.Popen([*command, "build"], cwd=run.project, stderr=subprocess.PIPE)
    with child.stderr:
        seen = read_until(child, b"exporting to image")
        time.sleep(0.5)
        child.send_signal(number)
        assert child.wait(20) == -number, seen
    deadline = time.monotonic() + 10  # the engine ends what it has begun
    while made() <= before and time.monotonic() < deadline:
        time.sleep(0.05)
    deadline += 5  # it may have come just now
    while made() - before:
        assert time.monotonic() < deadline


def test_choices_of_an_installed_package_come_from_the_image(model, name):
    run = model("echo")
    change(run.project, "build:\n", 'build:\n  python_packages: ["emoji==2.2.0"]\n')
    change(run.project, "from cog", "import emoji\nfrom cog", "predict.py")
    change(run.project, 'default="world"', 'default="en", choices=sorted(emoji.LANGUAGES)', "predict.py")
    code, out, err = run("predict", "-i", "text=xx")
    assert code == 2 and "must be one of: de, en, es" in err and "warning" not in err, err
    code, out, err = run("predict", "-i", "text=de")
    assert (code, out) == (0, "de\n") and "its own Python" not in err, err
    assert run("build", "-t", name)[0] == 0
    code, out, err = run("predict", name, "-i", "text=xx")
    assert code == 2 and "must be one of: de, en, es" in err
    change(run.project, "import emoji", "import emoji\nraise SystemError('gone')", "predict.py")
    code, out, err = run("predict", "-i", "text=xx")
    assert code == 5 and "cannot be imported to read its inputs: SystemError: gone" in err, err
    assert "choices expression cannot be statically resolved" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_the_asking_leaves_no_container(model, command, number):
    run = model("echo")
    change(run.project, "from cog", "import time\ntime.sleep(61)\nfrom cog", "predict.py")
    change(run.project, 'default="world"', 'default="en", choices=time.tzname', "predict.py")

    def askers() -> list[str]:
        found = make_image.Engine().call("GET", "/containers/json", {"all": 1})
        return [each["Id"] for each in found if "base64" in each["Command"] or not each["Command"]]  # Podman's has none

    before = askers()
    child = subprocess.Popen([*command, "predict"], cwd=run.project, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not set(askers()) - set(before):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1)
    child.send_signal(number)
    assert child.wait(30) == -number
    deadline = time.monotonic() + 15
    while left := set(askers()) - set(before):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def picture() -> bytes:
    """A grey PNG of 8 by 8."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress((b"\0" + b"\x80" * 8) * 8)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)) + chunk(b"IDAT", rows)
            + chunk(b"IEND", b""))


def test_a_model_of_2022_on_python_3_9(model):
    if not list_images("reference", "python:3.9-slim"):
        pytest.skip("python:3.9-slim is not here: python3 tests/engines/base_image.py 3.9 makes it")
    run = model("retro")
    (run.project / "in.png").write_bytes(picture())
    code, _, err = run("predict", "-i", "image=@in.png", "-i", "size=large", "-o", "got.png")
    assert code == 0 and "Written output to: got.png" in err, err
    assert struct.unpack(">II", (run.project / "got.png").read_bytes()[16:24]) == (64, 64)
    code, out, err = run("predict", "-i", "image=@in.png", "-i", "size=huge")
    assert code == 2 and "must be one of: small, large" in err
    shown = run("inspect")[1].splitlines()
    assert [line.split()[0] for line in shown[1:6]] == ["image", "size", "turn", "seed", "caption"]
    freeze = run("exec", "python", "-m", "pip", "freeze")[1]
    assert "Pillow==9.5.0" in freeze and "cog==0." in freeze and "made in 2022" in run("exec", "cat", "/made")[1]
