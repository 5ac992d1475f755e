"""`cog.pyz predict` in a model's folder: built, mounted, run; built again only when what it is built from changes."""
from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import make_image
import pytest
from processproject import list_processes
from reading import read_until

ROOT = Path(__file__).resolve().parents[2]
BUILDING = "Building Docker image from environment in cog.yaml..."


def test_a_model_is_built_once_and_its_source_is_what_runs(model):
    run = model("echo")
    code, out, err = run("predict", "-i", "text=a cat")
    assert (code, out) == (0, "a cat\n"), err
    assert BUILDING in err
    code, out, err = run("predict", "-i", "repeat=2")
    assert (code, out) == (0, "world world\n") and BUILDING not in err
    source = run.project / "predict.py"
    source.write_text(source.read_text().replace('" ".join', '"-".join'))
    code, out, err = run("predict", "-i", "repeat=2")
    assert (code, out) == (0, "world-world\n") and BUILDING not in err
    config = run.project / "cog.yaml"
    config.write_text(config.read_text().replace("build:\n", 'build:\n  run: ["touch /built"]\n'))
    code, out, err = run("predict", "-i", "repeat=2")
    assert code == 0 and BUILDING in err
    left = make_image.Engine().call("GET", "/images/json", {"filters": json.dumps(
        {"label": [f"cog.pyz.project={run.project}"]})})
    assert len(left) == 1, "the image that was superseded is still there"


def test_two_configs_of_a_project_leave_each_others_images_alone(model):
    run = model("echo")
    config = (run.project / "cog.yaml").read_text()
    (run.project / "two.yaml").write_text(config.replace("build:\n", 'build:\n  run: ["touch /two"]\n'))
    said = [run("predict", "-f", name) for name in ("cog.yaml", "two.yaml", "cog.yaml", "two.yaml")]
    assert [code for code, _, _ in said] == [0] * 4, said
    assert [f"in {name}..." in err for (_, _, err), name in zip(said, ("cog.yaml", "two.yaml") * 2)] == [
        True, True, False, False]


def test_inputs_are_checked_before_the_build(model):
    code, out, err = model("echo")("predict", "-i", "repeat=200", "-i", "txet=a")
    assert code == 2 and out == ""
    assert 'unknown input "txet"' in err and "number must be at most 10" in err and BUILDING not in err


def test_no_config_is_one_line(cog):
    done = cog("predict")
    assert done.code == 2 and done.err.startswith("error: cog.yaml not found in ") and "hint: " in done.err


def test_a_read_only_project_is_copied(model):
    run = model("files")
    (run.project / "note.txt").write_text("12345")
    code, out, err = run("predict", "-i", "file=@note.txt")
    assert code == 0, err
    run.project.chmod(0o555)
    assert not list(run.project.rglob("__pycache__"))
    for path in run.project.glob("output*"):
        path.unlink()
    code, out, err = run("predict", "-i", "file=@note.txt", "-o", str(run.project.parent / "got"))
    run.project.chmod(0o755)
    assert code == 0, err
    assert (run.project.parent / "got.0.txt").read_text().startswith("5 ")


def test_a_folder_that_the_engine_does_not_see_is_copied(model, unseen):
    run = model("files")
    assert run("predict")[0] == 0
    (run.project / "out.of").symlink_to("../it")
    done = unseen(run.project, "predict", "-i", "file=@cog.yaml", "-o", f"{run.project}/seen", "--debug")
    assert done.code == 0, done.err
    assert (run.project / "seen.0.txt").read_text().startswith(f"{(run.project / 'cog.yaml').stat().st_size} ")
    assert "it is copied into the container" in done.err and done.err.count("Starting Docker image") == 1, done.err


def test_a_model_that_is_a_link_out_of_its_project_is_refused(model):
    run = model("echo")
    (run.project / "predict.py").rename(run.project.parent / "elsewhere.py")
    (run.project / "predict.py").symlink_to("../elsewhere.py")
    for words in (("predict",), ("build",)):
        code, _, err = run(*words)
        assert code == 2 and "predict.py is a link to " in err and "--engine none" in err and BUILDING not in err, err


@pytest.mark.parametrize("engine", [(), ("--engine", "none")])
def test_a_dry_run_builds_and_writes_nothing(model, engine):
    run = model("echo")
    before = sorted(run.project.iterdir())
    code, out, err = run("predict", "-i", "text=x", "--dry-run", *engine)
    assert code == 0, err
    assert json.loads(out)["input"] == {"text": "x"} and BUILDING not in err
    assert sorted(run.project.iterdir()) == before


def test_a_step_that_fails_shows_its_log(model):
    run = model("echo")
    config = run.project / "cog.yaml"
    config.write_text(config.read_text().replace("build:\n", 'build:\n  run: ["echo all is lost; no-such-tool -x"]\n'))
    code, out, err = run("predict")
    assert code == 4 and "all is lost" in err and "Traceback" not in err
    assert "hint: there is no no-such-tool there: name its apt package" in err


def test_a_base_image_that_cannot_be_had_says_how_to_go_on(model):
    code, out, err = model("echo")("predict", "--base-image", "127.0.0.1:9/no-such-base:1")
    assert code == 4 and "127.0.0.1:9/no-such-base:1 cannot be had" in err and "--base-image" in err


def test_cogs_base_image_is_built_on_where_it_is_here(model):
    run, base = model("echo"), f"cog-test-{os.urandom(4).hex()}.example/cog-base"
    words = ("predict", "--registry", base.partition("/")[0], "--progress", "plain")
    code, _, err = run(*words)
    assert code == 0 and "python:3.11-slim" in err, err
    engine = make_image.Engine()
    engine.call("POST", "/images/python:3.11-slim/tag", {"repo": base, "tag": "python3.11"})
    try:
        code, _, err = run(*words)
        assert code == 0 and f"FROM {base}:python3.11" in err, err
        code, _, err = run(*words)
        assert code == 0 and BUILDING not in err, err
        code, _, err = run(*words, "--use-cog-base-image=false")
        assert code == 0 and "python:3.11-slim" in err, err
    finally:
        engine.remove_image(f"{base}:python3.11")


def test_a_cuda_base_that_cannot_be_had_is_done_without_unless_it_was_asked_for(model):
    run = model("echo")
    config = run.project / "cog.yaml"
    config.write_text(config.read_text().replace("build:\n", "build:\n  gpu: true\n  cuda: '11.0'\n"))
    code, out, err = run("predict", "--cpu", "--use-cuda-base-image", "true")
    assert code == 4 and "nvidia/cuda:11.0" in err and "cannot be had" in err, err
    code, out, err = run("predict", "--cpu")
    assert (code, out) == (0, "world\n"), err
    assert len([line for line in err.splitlines() if "cannot be had" in line and "python:3.11-slim" in line]) == 1
    code, out, err = run("predict", "--cpu")
    assert (code, out) == (0, "world\n") and "Building" not in err and "cannot be had" not in err, err
    assert "The image is without NVIDIA's libraries" in err and "--no-cache" in err


TELEMETRY = """
import os
from opentelemetry.sdk.trace import TracerProvider

class Own(TracerProvider):
    pass

def create_tracer_provider():
    return Own(shutdown_on_exit=False)

def configure_instrumentation():
    os.environ["CONFIGURED"] = "by telemetry.py"
"""
TRACED = """
import os
from cog import BasePredictor
from opentelemetry import trace

class Predictor(BasePredictor):
    def predict(self, text: str = "a") -> str:
        with trace.get_tracer(__name__).start_as_current_span("reading"):
            return f"{text} {type(trace.get_tracer_provider()).__name__} {os.environ['CONFIGURED']}"
"""


def test_a_model_traces_with_its_own_provider(model):
    run = model("echo")
    config = run.project / "cog.yaml"
    text = "build: {python_version: '3.11'}\npredict: predict.py:Predictor\n"
    config.write_text(text + "observability:\n  config: telemetry.py\n  traces: {enabled: true}\n")
    (run.project / "predict.py").write_text(TRACED)
    (run.project / "telemetry.py").write_text(TELEMETRY)
    code, out, err = run("predict")
    assert (code, out) == (0, "a Own by telemetry.py\n"), err
    (run.project / "telemetry.py").write_text(TELEMETRY.replace("by telemetry", "anew by telemetry"))
    code, out, err = run("predict")
    assert (code, out) == (0, "a Own anew by telemetry.py\n"), err
    code, out, err = run("predict", "--engine", "none", "--dry-run")
    assert "in a virtual environment; without observability" in err, err


def test_an_asynchronous_model(model):
    code, out, err = model("waits")("predict", "-i", "words=3")
    assert code == 0, err
    assert json.loads(out) == ["word 0", "word 1", "word 2"]


def test_a_neural_network_knows_files(model):
    run = model("filetype")
    code, out, err = run("predict", "-i", "file=@predict.py")
    assert code == 0, err
    assert json.loads(out)["label"] == "python"
    code, out, err = run("predict", "-i", "file=@-", stdin=b"%PDF-1.4\n" + b"1 0 obj <</Type /Catalog>> endobj\n" * 50)
    assert code == 0, err
    assert json.loads(out)["label"] == "pdf"


def picture(text: str) -> bytes:
    """A PNG with a text in it, drawn from a font of 5 by 7 dots."""
    font = {"C": "0E 11 10 10 10 11 0E", "O": "0E 11 11 11 11 11 0E", "G": "0E 11 10 17 11 11 0F",
            "2": "0E 11 01 02 04 08 1F", "0": "0E 11 13 15 19 11 0E", "6": "06 08 10 1E 11 11 0E"}
    rows = [[255] * (len(text) * 60 + 60) for _ in range(130)]
    for at, letter in enumerate(text):
        for y, bits in enumerate(font[letter].split()):
            for x in range(5):
                if int(bits, 16) >> (4 - x) & 1:
                    for dy in range(10):
                        rows[30 + y * 10 + dy][30 + at * 60 + x * 10:40 + at * 60 + x * 10] = [0] * 10

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 0, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
            + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))) + chunk(b"IEND", b""))


def test_a_neural_network_reads_and_gone_package_names_are_followed(model):
    run = model("ocr")
    (run.project / "word.png").write_bytes(picture("COG"))
    code, out, err = run("predict", "-i", "image=@word.png", "-i", "least=0")
    assert code == 0, err
    assert "COG" in "".join(line["text"] for line in json.loads(out)).upper().replace(" ", "").replace("0", "O")
    assert "libgl1" in err


def test_an_interrupted_build_stops(model, command):
    run = model("echo")
    config = run.project / "cog.yaml"
    config.write_text(config.read_text().replace("build:\n", 'build:\n  run: ["sleep 17"]\n'))
    child = subprocess.Popen([*command, "predict"], cwd=run.project, stderr=subprocess.PIPE)
    with child.stderr:
        read_until(child, b"sleep 17")
        time.sleep(1)
        child.terminate()
        began = time.monotonic()
        assert child.wait(20) == -15
    assert time.monotonic() - began < 10
    if make_image.Engine().is_podman():
        pytest.skip("a step of Podman's builder goes on when its client is gone, and nothing in its API ends one")
    if sys.platform == "linux":
        deadline = time.monotonic() + 5
        while left := [line for line in list_processes("sleep 17") if line.startswith("sleep")]:
            assert time.monotonic() < deadline, left
            time.sleep(0.1)
