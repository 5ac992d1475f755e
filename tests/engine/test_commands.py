"""The commands beside `predict`, as a user types them, on a real engine."""
from __future__ import annotations

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
