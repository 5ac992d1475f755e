"""Rendered Dockerfiles, built by a real engine: what the image then holds, and that a second build costs nothing."""
from __future__ import annotations

import http.client
import io
import json
import socket
import tarfile
import urllib.parse
import zipfile
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

import cogpredict as cog

LABELS = {"cog.test": "dockerfile"}
BASE = cog.Config(python_version="3.11", predict="predict.py:Predictor")
PREDICTOR = b"""from cog import BasePredictor
class Predictor(BasePredictor):
    def predict(self) -> str:
        return ''
"""
WHEEL = "w/local_one-1.0-py3-none-any.whl"


class Engine:
    """Just enough of an engine's API to build an image and run a command in it."""

    def __init__(self, address: str) -> None:
        self.address = address

    def call(self, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> bytes:
        scheme, _, place = self.address.partition("://")
        connection = http.client.HTTPConnection("engine" if scheme == "unix" else place, timeout=600)
        if scheme == "unix":
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.connect(place)
        try:
            connection.request(method, path, body, {"Content-Type": kind, "Connection": "close"})
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        assert answer.status < 300, (path, answer.status, data)
        return data

    def build(self, files: dict[str, bytes]) -> str:
        """The id of the image that a context builds."""
        query = urllib.parse.urlencode({"version": 2, "networkmode": "host", "labels": json.dumps(LABELS),
                                        "dockerfile": ".cog/build/Dockerfile"})
        stream = self.call("POST", f"/build?{query}", make_tar(files), "application/x-tar").decode().splitlines()
        found = [json.loads(line) for line in stream if line.strip()]
        errors = [line["error"] for line in found if "error" in line]
        assert not errors, errors[0] + "\n" + files[".cog/build/Dockerfile"].decode()
        image = [line["aux"]["ID"] for line in found if isinstance(line.get("aux"), dict)]
        return str(image[0])

    def run(self, image: str, command: str) -> str:
        """What a shell command prints in a container of an image."""
        body: dict[str, Any] = {"Image": image, "Cmd": ["sh", "-ec", command], "Tty": True, "Labels": LABELS}
        made = json.loads(self.call("POST", "/containers/create", json.dumps(body).encode()))["Id"]
        try:
            self.call("POST", f"/containers/{made}/start")
            self.call("POST", f"/containers/{made}/wait")
            return self.call("GET", f"/containers/{made}/logs?stdout=1&stderr=1").decode().replace("\r\n", "\n")
        finally:
            self.call("DELETE", f"/containers/{made}?force=1")


def make_tar(files: dict[str, bytes]) -> bytes:
    """A context with these files."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return data.getvalue()


def make_wheel(name: str) -> bytes:
    """A wheel with one module."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for path, text in {
            f"{name}.py": "here = True\n",
            f"{name}-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
            f"{name}-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{name}-1.0.dist-info/RECORD": "",
        }.items():
            archive.writestr(path, text)
    return data.getvalue()


@pytest.fixture
def engine(engine_address: str) -> Iterator[Engine]:
    """An engine; the images that a test made go again."""
    engine = Engine(engine_address)
    yield engine
    query = urllib.parse.urlencode({"filters": json.dumps({"label": ["cog.test=dockerfile"]})})
    for image in json.loads(engine.call("GET", f"/images/json?{query}")):
        engine.call("DELETE", f"/images/{urllib.parse.quote(image['Id'])}?force=1")


@pytest.fixture
def build(engine: Engine) -> Callable[..., str]:
    """Builds a config with its project's files; returns the image's id."""

    def build(config: cog.Config, settings: cog.BuildSettings, project: dict[str, bytes]) -> str:
        return engine.build({**project, **cog.build_files(config, settings, project.__getitem__)})

    return build


def test_a_trivial_model(engine: Engine, build: Callable[..., str]) -> None:
    image = build(BASE, cog.BuildSettings(), {"predict.py": PREDICTOR, "cog.yaml": b""})
    config = json.loads(engine.call("GET", f"/images/{image}/json"))["Config"]
    assert config["Cmd"] == ["python", "-m", "cog.server.http"] and config["WorkingDir"] == "/src"
    assert "COG_PREDICT_TYPE_STUB=predict.py:Predictor" in config["Env"] and "5000/tcp" in config["ExposedPorts"]
    printed = engine.run(image, "ls -1A /src; python -c 'import cog.server.http'; echo $LD_LIBRARY_PATH")
    assert printed == "cog.yaml\npredict.py\n/usr/lib/x86_64-linux-gnu:/usr/local/nvidia/lib64:/usr/local/nvidia/bin\n"
    assert build(BASE, cog.BuildSettings(), {"predict.py": PREDICTOR, "cog.yaml": b""}) == image


def test_requirements_wheels_steps_and_environment(engine: Engine, build: Callable[..., str]) -> None:
    values = (("A", "two  words"), ("B", "$PYTHONUNBUFFERED and \\ \"'$5"), ("C", "a#b=c"))
    config = BASE._replace(
        file_name="other.yaml", environment=values, sdk_version="0.16.12", concurrency_max=1, artifacts=(WHEEL,),
        requirements=("six==1.16.0 ; python_version>='3'", f"./{WHEEL}"),
        run=(cog.RunStep('echo "$B" > /b && \\\n  test ! -e /src/predict.py'), cog.RunStep("[ -f /b ] && echo > /c")),
    )
    project = {"predict.py": PREDICTOR, "other.yaml": b"# other\n", WHEEL: make_wheel("local_one")}
    image = build(config, cog.BuildSettings(), project)
    printed = engine.run(image, "cat /b; cat /src/cog.yaml; ls -1A /src; echo $COG_MAX_CONCURRENCY; "
                                "echo \"$C\"; echo \"$A\"; "
                                "python -c 'import six, local_one, cog; print(six.__version__, cog.__version__)'")
    assert printed.splitlines() == ["1 and \\ \"'$5", "# other", "cog.yaml", "other.yaml", "predict.py", "w",
                                    "1", "a#b=c", "two  words", "1.16.0 0.16.12"]


def test_apt_packages_under_old_and_new_names(engine: Engine, build: Callable[..., str]) -> None:
    config = BASE._replace(system_packages=("libssl1.1", "libffi8", "libncurses5"))
    image = build(config, cog.BuildSettings(for_development=True), {})
    assert engine.run(image, "dpkg -s libssl3 libffi8 libncurses5 curl | grep -c '^Status: install ok'") == "4\n"
    assert engine.run(image, "ls -1A /src /var/lib/apt/lists") == "/src:\n\n/var/lib/apt/lists:\n"


def test_certificates_and_a_runtime_of_ours(engine: Engine, build: Callable[..., str]) -> None:
    here = "/etc/ssl/certs/ca-certificates.crt"
    if not Path(here).is_file():
        pytest.skip("this machine has no certificates to give")
    certificates = cog.read_certificates(here, "/")[:2]
    settings = cog.BuildSettings(ca_certificates=certificates, runtime=("cog-1.0-py3-none-any.whl",),
                                 wheels=(("cog-1.0-py3-none-any.whl", make_wheel("cog")),),
                                 base_image="python:3.11-slim")
    image = build(BASE, settings, {"predict.py": b""})
    printed = engine.run(image, "ls -1 /usr/local/share/ca-certificates; python -c 'import cog; print(cog.here)'; "
                                "echo $SSL_CERT_FILE")
    assert printed.splitlines() == ["cog-ca-cert-2.crt", "cog-ca-cert.crt", "True", here]


def test_python_copied_onto_another_base(engine: Engine, build: Callable[..., str],
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cog, "python_image", lambda config, settings: "python:3.11-slim")
    monkeypatch.setattr(cog, "CUDA_PACKAGES", ("libexpat1", "libpython3-stdlib", "zlib1g"))
    image = build(BASE, cog.BuildSettings(for_development=True), {})
    assert engine.run(image, "python -c 'import cog; print(1)'; echo $LANG").splitlines() == ["1", "C.UTF-8"]
