"""`cog.pyz train` on a real engine: images of three generations of the runtime, and a model's folder."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import make_image
import pytest

each_version = pytest.mark.parametrize("version", make_image.VERSIONS)


@each_version
def test_a_training_saves_its_result(cog, images, version, tmp_path):
    (tmp_path / "notes.txt").write_text("abc")
    done = cog("train", images("trainer", version), "-i", "data=@notes.txt", "-i", "steps=2")
    assert (done.code, done.out) == (0, ""), done.err
    assert json.loads((tmp_path / "weights").read_text()) == {"weights": "weights.weights.bin", "steps": 2}
    assert (tmp_path / "weights.weights.bin").read_text() == "abcabc"
    assert "Running training..." in done.err and "step 1\n" in done.err and "deprecated" not in done.err
    assert "Traceback" not in done.err


@each_version
def test_a_training_that_fails(cog, images, version, tmp_path):
    done = cog("train", images("trainer", version), "-i", "data=@-", stdin=b"please fail")
    assert done.code == 1 and 'error: Training failed with status "failed": ' in done.err
    assert "failed as asked" in done.err
    assert list(tmp_path.iterdir()) == []


@each_version
def test_a_training_is_stopped(command, images, version, tmp_path):
    (tmp_path / "d").write_text("abc")
    child = subprocess.Popen([*command, "train", images("trainer", version), "-i", "data=@d", "-i", "steps=100", "-i",
                              "delay=0.2"], cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    with child.stderr:
        for line in child.stderr:
            if line == b"step 1\n":
                break
        began = time.monotonic()
        child.send_signal(signal.SIGINT)
        child.stderr.read()
    assert child.wait(20) == -signal.SIGINT and time.monotonic() - began < 12
    assert os.listdir(tmp_path) == ["d"]


def test_inputs_are_those_of_the_training(cog, images):
    done = cog("train", images("trainer", make_image.VERSIONS[-1]), "-i", "text=a", "-i", "steps=0")
    assert done.code == 2 and "Starting" not in done.err
    assert 'unknown input "text"; valid inputs are: data, delay, steps' in done.err
    assert 'missing required input "data"' in done.err


def test_the_result_goes_where_o_says(cog, images, tmp_path):
    (tmp_path / "d").write_text("abc")
    image = images("trainer", make_image.VERSIONS[-1])
    done = cog("train", image, "-i", "data=@d", "-o", "new.json")
    assert done.code == 0 and sorted(os.listdir(tmp_path)) == ["d", "new.json", "new.weights.bin"], done.err
    done = cog("train", image, "--json", '{"data": "@d", "steps": 1}')
    assert json.loads(done.out)["output"]["steps"] == 1 and not (tmp_path / "weights").exists()


def test_a_model_that_cannot_be_trained(cog, images):
    done = cog("train", images("echo", make_image.VERSIONS[-1]), "-i", "text=a")
    assert done.code == 2 and done.err.splitlines()[0] == (
        "error: the model cannot be trained: its cog.yaml has no `train`")


@pytest.mark.parametrize("engine", [(), pytest.param(("--engine", "none"), marks=pytest.mark.slow)])
def test_a_folder_is_trained_where_it_is(model, engine):
    run = model("trainer")
    code, out, err = run("train", "-i", "data=@-", "-i", "steps=2", *engine, stdin=b"abc")
    assert (code, out) == (0, ""), err
    assert (run.project / "weights.weights.bin").read_text() == "abcabc"
    assert (run.project / "seen.txt").read_text() == "abc"
    code, out, err = run("predict", "-i", "text=still there", *engine)
    assert (code, out) == (0, "still there\n"), err


def test_a_training_on_a_copy_of_the_folder_says_what_is_lost(model, unseen):
    project = model("trainer").project
    done = unseen(project, "train", "-i", "data=@predict.py", "-i", "steps=1", "-o", f"{project}/got")
    assert done.code == 0 and (project / "got").exists(), done.err
    assert f"warning: /src is a copy of {project.parent}/elsewhere: what is written there is lost" in done.err
