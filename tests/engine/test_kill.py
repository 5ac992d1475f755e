"""kill -9 of the program at moments of its run: nothing runs on, nothing lies about two seconds later."""
from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import make_image
import pytest
from cutter import Cutter

ROOT = Path(__file__).resolve().parents[2]
NEWEST = make_image.VERSIONS[-1]


def list_names() -> set[str]:
    """The names of all images."""
    return {tag for image in make_image.Engine().call("GET", "/images/json", {}) for tag in image.get("RepoTags") or ()}


@pytest.fixture
def project(tmp_path, remove_images):
    """A project whose build takes a second, in a folder beside an empty TMPDIR; its images are removed afterwards."""
    folder = tmp_path / "project"
    shutil.copytree(ROOT / "tests" / "models" / "slow", folder)
    config = folder / "cog.yaml"
    config.write_text(config.read_text().replace("build:\n", f'build:\n  run: ["sleep 1 # {os.urandom(4).hex()}"]\n'))
    (tmp_path / "tmp").mkdir()
    yield folder
    remove_images([folder])
    for name in list_names():
        if "cog-test/killed" in name:
            make_image.Engine().remove_image(name)


@pytest.mark.parametrize("words", [("predict", "-i", "seconds=60"), ("build", "-t", "cog-test/killed")])
@pytest.mark.parametrize("moment", [0.2, 0.6, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0])
def test_a_kill_while_a_model_is_built_or_run(command, project, words, moment):
    def list_left() -> set[str]:
        """What is there of files and names, but for what is kept."""
        paths = {os.path.join(place, name) for place, *names in os.walk(project.parent) for name in sum(names, [])}
        found = paths | {name for name in list_names() if name.endswith(":unlabelled")}
        return {path for path in found if path.endswith(".part") or not {".cog", "__pycache__"} & {*path.split("/")}}

    environ = {**os.environ, "TMPDIR": str(project.parent / "tmp")}
    before = list_left()
    child = subprocess.Popen([*command, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=project,
                             env=environ)
    time.sleep(moment)
    child.kill()
    child.wait()
    time.sleep(2)  # nothing_left looks for containers
    deadline = time.monotonic() + 10
    while (left := list_left() - before) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


class Starting(Cutter):
    """Cuts itself off as soon as the engine is asked to start a container, and comes back a moment later."""

    def on_request(self, data: bytes, near: socket.socket) -> bool:
        if b"/exec HTTP/1.1" not in data:
            return True
        self.cut()
        time.sleep(1)
        self.listen()
        return False


def is_there(mark: str) -> bool:
    """Whether a container has this in its environment."""
    engine = make_image.Engine()
    for found in engine.call("GET", "/containers/json", {"all": 1, "filters": '{"label":["cog.pyz.run"]}'}):
        try:
            if mark in engine.call("GET", f"/containers/{found['Id']}/json", {})["Config"]["Env"]:
                return True
        except make_image.EngineFailed:
            pass  # it is gone
    return False


def test_an_engine_that_vanishes_before_the_helper_is_there(command, images, tmp_path):
    engine, mark = Starting(tmp_path / "engine.sock"), f"MARK={os.urandom(8).hex()}"
    done = subprocess.run([*command, "predict", images("slow", NEWEST), "--engine", f"unix://{engine.path}", "-e", mark,
                           "-i", "seconds=60"], capture_output=True, cwd=tmp_path, timeout=60)
    assert done.returncode in (3, 6) and b"Traceback" not in done.stderr, done.stderr
    deadline = time.monotonic() + 15
    while is_there(mark):
        assert time.monotonic() < deadline, "the container that nobody had a leash on runs on"
        time.sleep(0.1)
    engine.cut()
