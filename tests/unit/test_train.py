"""What a training is planned like: the server's mode, its own schema, the result's place."""
from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

import cogpredict
from cogpredict import Options, Ports, Run, Runnable, UsageError, check_task, parse_argv, plan_container, plan_result

TRAIN = Options(command="train", image="m")
DOCUMENT = {"components": {"schemas": {
    "Input": {"properties": {"text": {"type": "string"}}}, "Output": {"type": "string"},
    "TrainingInput": {"properties": {"data": {"type": "string", "format": "uri"}}, "required": ["data"]},
    "TrainingOutput": {"type": "string", "format": "uri"}}}}


def plan(options, command):
    image = {"Id": "i", "Config": {"Cmd": command}}
    run = Run("n", "t", Ports(5000, 20000))
    return plan_container(options, Runnable("m", image, {}, {}), run, environ={}, cwd="/", podman=False)


@pytest.fixture
def world(tmp_path):
    return cogpredict.World(cogpredict.Console({}), {}, str(tmp_path), str(tmp_path), io.BytesIO(), cogpredict.Loop())


@pytest.mark.parametrize("command, python", [
    (["/opt/python", "-m", "cog.server.http"], "/opt/python"), (["/start.sh"], "python"), (None, "python")])
def test_the_server_is_told_to_train(command, python):
    assert plan(TRAIN, command).body["Cmd"] == [
        python, "-m", "cog.server.http", "--x-mode", "train", "--upload-url", "http://127.0.0.1:20000/t/up"]


def test_train_takes_the_flags_of_predict_and_no_command_loses_its_mode():
    options = parse_argv(["train", "m", "-i", "a=b", "-o", "x", "--gpus", "all", "--timeout", "5"])
    assert (options.command, options.image, options.inputs, options.output) == ("train", "m", (("a", "b"),), "x")
    assert "--x-mode" not in plan(Options(), ["python", "-m", "cog.server.http"]).body["Cmd"]


@pytest.mark.parametrize("flags, name, stem, noun", [
    ({}, "weights", "weights", "training"), ({"output": "a.bin"}, "a.bin", "a", "training"),
    ({"output": "-"}, "", "output", "training"), ({"json": "{}"}, "", "output", "training"),
    ({"command": "predict"}, "", "output", "prediction")])
def test_a_training_is_saved_by_default(world, flags, name, stem, noun):
    made = plan_result(TRAIN._replace(**flags), DOCUMENT, world)
    assert (made.name, made.stem, made.noun) == (name, stem, noun)


def test_the_schema_is_that_of_the_training_or_else_the_only_one():
    assert list(cogpredict.job_schema(TRAIN, DOCUMENT).properties) == ["data"]
    assert list(cogpredict.job_schema(Options(), DOCUMENT).properties) == ["text"]
    schemas = {"Input": DOCUMENT["components"]["schemas"]["Input"]}
    assert list(cogpredict.job_schema(TRAIN, {"components": {"schemas": schemas}}).properties) == ["text"]


def test_a_label_with_nothing_but_a_training_is_a_schema():
    schemas = {"TrainingInput": DOCUMENT["components"]["schemas"]["TrainingInput"]}
    text = json.dumps({"components": {"schemas": schemas}})
    assert cogpredict.image_document({"Config": {"Labels": {"run.cog.openapi_schema": text}}}) is not None


def test_what_a_model_cannot_do_is_said():
    with pytest.raises(UsageError, match="cannot be trained"):
        check_task(TRAIN, "predict.py:Predictor", "")
    with pytest.raises(UsageError, match="can only be trained"):
        check_task(Options(), "", "train.py:train")
    check_task(TRAIN, "", "")  # a label that says nothing
    check_task(Options(), "p", "t")


def test_a_source_is_read_for_what_is_asked(world, tmp_path):
    (tmp_path / "cog.yaml").write_text('build:\n  python_version: "3.11"\npredict: "no.py:P"\ntrain: "t.py:go"\n')
    Path(tmp_path / "t.py").write_text("def go(n: int) -> str:\n    return str(n)\n")
    config = cogpredict.read_config(str(tmp_path / "cog.yaml"))
    document = cogpredict.read_model_source(TRAIN, config, world).document
    assert list(document["components"]["schemas"]["TrainingInput"]["properties"]) == ["n"]
