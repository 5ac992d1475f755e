"""The commands beside `predict`, as a user types them, on a real engine."""
from __future__ import annotations

import json

import make_image
import pytest


@pytest.fixture
def no_images(tmp_path):
    """Afterwards nothing is left of the images that were built from a project of this test's, under any name."""
    yield
    engine = make_image.Engine()
    for image in engine.call("GET", "/images/json", {}):
        project = (image.get("Labels") or {}).get("cog.pyz.project", "")
        if project.startswith(str(tmp_path)):
            engine.call("DELETE", f"/images/{image['Id']}", {"force": 1})


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
