"""Images of runtimes between those that the other tests run on."""
from __future__ import annotations

import json

import pytest

each_version = pytest.mark.parametrize("version", ["0.8.6", "0.11.6", "0.14.12", "0.17.2", "0.19.3"])


@pytest.mark.parametrize("version", ["0.11.6", "0.14.12"])
def test_inputs_and_outputs(cog, images, version, tmp_path):
    (tmp_path / "a.txt").write_text("12345")
    done = cog("predict", images("kinds", version), "-i", "needed=x", "-i", "count=3", "-i", "file=@a.txt")
    assert done.code == 0, done.err
    got = json.loads(done.out)
    assert (got["needed"], got["count"], got["file"][1]) == ("x", 3, 5)


@each_version
def test_a_string(cog, images, version):
    done = cog("predict", images("echo", version), "-i", "text=a cat", "-i", "repeat=2")
    assert (done.code, done.out) == (0, "a cat a cat\n"), done.err


@each_version
def test_files(cog, images, version, tmp_path):
    (tmp_path / "a.txt").write_text("12345")
    done = cog("predict", images("files", version), "-i", "file=@a.txt", "-i", "answer=copy", "-o", "got.txt")
    assert done.code == 0, done.err
    assert (tmp_path / "got.0.txt").read_text() == "12345"
