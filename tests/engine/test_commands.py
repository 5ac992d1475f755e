"""The commands beside `predict`, as a user types them, on a real engine."""
from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import make_image
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def no_images(tmp_path):
    """Afterwards nothing is left of the images that were built from a project of this test's, under any name."""
    yield
    engine = make_image.Engine()
    for image in engine.call("GET", "/images/json", {}):
        project = (image.get("Labels") or {}).get("cog.pyz.project", "")
        if project.startswith(str(tmp_path)):
            engine.remove_image(image["Id"])


def test_what_init_makes_predicts_as_it_is(cog, no_images):
    assert cog("init").code == 0
    done = cog("predict", "-i", "name=you", "-i", "times=2", "--base-image", "python:3.11-slim", timeout=400)
    assert (done.code, done.out) == (0, "hello you hello you\n"), done.err


def test_inspect_reads_the_labels_of_an_image(cog, images):
    done = cog("inspect", images("echo", "0.23.1"))
    assert done.code == 0 and done.out.splitlines()[2].split()[:6] == ["repeat", "integer", "1", "1", "to", "10"]
    found = json.loads(cog("inspect", "--json", images("echo", "0.23.1")).out)
    assert found["config"]["build"]["python_version"] and "Input" in found["schema"]["components"]["schemas"]
    done = cog("inspect", "python:3.11-slim")
    assert done.code == 2 and "not a Cog model" in done.err


@pytest.fixture
def project(tmp_path, cog):
    """A model in the folder in which the program runs, and a name for its image, which is removed afterwards."""
    name = f"cog-test/build-{os.urandom(4).hex()}"
    shutil.copytree(ROOT / "tests" / "models" / "echo", tmp_path, dirs_exist_ok=True)
    yield name
    engine = make_image.Engine()
    for tag in engine.call("GET", "/images/json", {"filters": json.dumps({"reference": [name]})}):
        engine.remove_image(tag["Id"])


def test_a_built_image_needs_nothing_but_itself(cog, project, tmp_path):
    (tmp_path / ".dockerignore").write_text("secret*\n")
    (tmp_path / "secret.txt").write_text("not for the image")
    (tmp_path / "cog.yaml").write_text(
        "build:\n  python_version: '3.11'\n  run:\n  - command: wc -c < /run/key > /key\n"
        "    mounts: [{type: secret, id: key, target: /run/key}]\n"
        "environment: [WORD=hi there]\npredict: predict.py:Predictor\n")
    source = (tmp_path / "predict.py").read_text().replace('" ".join([text] * repeat)', '" ".join(\n'
        '            [text, os.environ["WORD"], open("/key").read().strip(), *sorted(os.listdir("/src"))])')
    (tmp_path / "predict.py").write_text("import os\n" + source)
    done = cog("build", "-t", f"{project}:1", "-t", f"{project}:2", "--secret", "id=key,env=KEY", "--strip",
               timeout=400, KEY="12345", GITHUB_SHA="abc", GITHUB_REF_NAME="v1")
    assert done.code == 0 and done.out == "", done.err
    assert "warning: --strip does nothing yet" in done.err and done.err.count("nothing yet") == 1
    assert f"Image built as {project}:2" in done.err
    labels = make_image.Engine().call("GET", f"/images/{project}:1/json", {})["Config"]["Labels"]
    assert labels["run.cog.has_init"] == "true" and "cog==" in labels["run.cog.pip_freeze"]
    assert labels["org.opencontainers.image.revision"] == "abc" and labels["org.opencontainers.image.version"] == "v1"
    assert json.loads(labels["run.cog.config"])["build"]["run"][0]["command"] == "wc -c < /run/key > /key"
    assert json.loads(labels["run.cog.openapi_schema"])["info"]["version"] == labels["run.cog.version"]
    for path in ("cog.yaml", "predict.py", "secret.txt"):
        (tmp_path / path).unlink()
    done = cog("predict", f"{project}:2", "-i", "text=a")
    assert done.code == 0, done.err
    words = done.out.split()
    assert words[:4] == ["a", "hi", "there", "5"] and "predict.py" in words and "secret.txt" not in words
    assert ".cog" in words
    done = cog("predict", f"{project}:2", "-i", "repeat=99")
    assert done.code == 2 and "number must be at most 10" in done.err


def test_a_dockerfile_of_ones_own_stands_in_for_ours(cog, images, project, tmp_path):
    base = images("echo", "0.23.1")
    (tmp_path / "cog.yaml").write_text("build: {python_version: '3.11.3', gpu: true}\npredict: predict.py:Predictor\n")
    (tmp_path / "my").mkdir()
    (tmp_path / "my" / "Dockerfile").write_text(f"FROM {base} AS first\nRUN echo mine > /word\n"
                                                "FROM first\nCOPY . /src\nENV COG_PREDICT_TYPE_STUB=lost.py:Lost")
    source = (tmp_path / "predict.py").read_text()
    (tmp_path / "predict.py").write_text(source.replace('" ".join(', 'open("/word").read() + " ".join('))
    done = cog("build", "-t", project, "--dockerfile", "my/Dockerfile", timeout=400)
    assert done.code == 0 and "warning" not in done.err and "pip install" not in done.err, done.err
    done = cog("predict", project, "-i", "text=a")
    assert (done.code, done.out) == (0, "mine\na\n"), done.err
    assert "Nothing has changed" in cog("build", "-t", project, "--dockerfile", "my/Dockerfile").err
    done = cog("build", "-t", project, "--dockerfile", "none")
    assert done.code == 2 and "--dockerfile" in done.err and "No such file" in done.err


def list_unlabelled():
    """The names of images that a build has not labelled yet."""
    images = make_image.Engine().call("GET", "/images/json", {})
    return {tag for image in images for tag in image.get("RepoTags") or () if tag.endswith(":unlabelled")}


def test_an_unchanged_build_is_the_same_image_and_no_other_name_is_left(cog, project, tmp_path):
    before = list_unlabelled()
    first = cog("build", "-q", "-t", project, timeout=400)
    assert first.code == 0 and first.err == "" and first.out.startswith("sha256:"), first.err
    assert cog("build", "-q", "-t", project) == first
    (tmp_path / "more.txt").write_text("more")
    second = cog("build", "-q", "-t", project)
    assert second.code == 0 and second.out != first.out
    assert list_unlabelled() <= before
    assert make_image.Engine().image(first.out.strip()) is None, "the image that was superseded is still there"


def test_a_build_that_fails_leaves_the_name_alone(cog, project, tmp_path):
    assert cog("build", "-q", "-t", project, timeout=400).code == 0
    before = make_image.Engine().call("GET", f"/images/{project}/json", {})["Id"]
    config = tmp_path / "cog.yaml"
    config.write_text(config.read_text().replace("build:\n", 'build:\n  run: ["echo all is lost; exit 7"]\n'))
    done = cog("build", "-t", project)
    assert done.code == 4 and "all is lost" in done.err and "Traceback" not in done.err
    assert make_image.Engine().call("GET", f"/images/{project}/json", {})["Id"] == before


def test_what_has_not_changed_is_not_sent_to_the_builder(cog, project, tmp_path):
    assert cog("build", "-t", f"{project}:1", timeout=400).code == 0
    (tmp_path / "predict.py").touch()
    first = cog("build", "-q", "-t", f"{project}:1").out
    done = cog("build", "-t", f"{project}:1", "-t", f"{project}:2")
    assert "Nothing has changed" in done.err and "COPY" not in done.err and f"Image built as {project}:2" in done.err
    for change in (("--build-arg", "A=1"), ("--no-cache",)):
        done = cog("build", "-t", f"{project}:1", *change, timeout=400)
        assert done.code == 0 and "Nothing has changed" not in done.err and "COPY" in done.err, change
    (tmp_path / "predict.py").chmod(0o755)
    assert "COPY" in cog("build", "-t", f"{project}:1").err
    (tmp_path / "predict.py").write_text((tmp_path / "predict.py").read_text() + "# changed\n")
    done = cog("build", "-q", "-t", f"{project}:1")
    assert done.code == 0 and done.out != first
    assert "Nothing has changed" in cog("build", "-t", f"{project}:1", "--secret", "id=a,env=HOME").err
    for commit in ("one", "another"):  # a builder may think that it has built this before
        assert "Nothing has changed" not in cog("build", "-t", f"{project}:1", GITHUB_SHA=commit).err
        labels = make_image.Engine().call("GET", f"/images/{project}:1/json")["Config"]["Labels"]
        assert labels["org.opencontainers.image.revision"] == commit


def test_weights_keep_their_layer_when_the_source_changes(cog, project, tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "a.bin").write_bytes(os.urandom(11 << 20))

    def layers():
        done = cog("build", "-t", project, "--separate-weights", timeout=400)
        assert done.code == 0, done.err
        return make_image.Engine().call("GET", f"/images/{project}/json", {})["RootFS"]["Layers"]

    first = layers()
    source = tmp_path / "predict.py"
    source.write_text("import os\n" + source.read_text().replace(
        '" ".join([text] * repeat)', 'str(os.path.getsize("weights/a.bin"))'))
    second = layers()
    assert second[:-2] == first[:-2] and second[-2] != first[-2]  # what tidies up comes last: its times may be the same
    assert cog("predict", project).out == f"{11 << 20}\n"
    (tmp_path / "weights" / "a.bin").unlink()
    assert "No files of weights" in cog("build", "-t", project, "--separate-weights").err
