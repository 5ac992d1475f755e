"""GPUs as an engine grants them: one that was brought up with ENGINE_PATH=tests/engines/gpu accepts every request."""
from __future__ import annotations

import make_image
import pytest

SOURCE = b"""\
import os
from cog import BasePredictor
class Predictor(BasePredictor):
    def predict(self, text: str = "", repeat: int = 1) -> str:
        return os.environ.get("NVIDIA_VISIBLE_DEVICES", "none")
"""


@pytest.mark.parametrize("flag, devices", [
    ("all", "all"), ("device=0", "0"), ('"device=0",capabilities=utility', "0"), ("", "all"),
])
def test_gpus_are_there_as_asked_for(cog, images, flag, devices):
    label = '{"build":{"gpu":true,"python_version":"3.11"},"predict":"predict.py:Predictor"}'
    dockerfile = f"FROM {images('echo', make_image.VERSIONS[-1])}\nCOPY predict.py /src/\n".encode()
    make_image.build(make_image.Engine(), "cog-test/devices:1", {"Dockerfile": dockerfile, "predict.py": SOURCE},
                     {"run.cog.config": label, "cog.test": "images"})
    done = cog("predict", "cog-test/devices:1", *(["--gpus", flag] if flag else []))
    if done.code == 3 and "no GPU for a container" in done.err or "re-trying without GPU" in done.err:
        pytest.skip("this engine grants no GPU: bring one up with ENGINE_PATH=tests/engines/gpu")
    assert (done.code, done.out) == (0, f"{devices}\n"), done.err
