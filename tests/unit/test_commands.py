"""The commands that need no engine, called as main calls them, in a world without any."""
from __future__ import annotations

import errno
import io
import json
import os
import shutil
from pathlib import Path

import pytest

import cogpredict

MODELS = Path(__file__).resolve().parents[1] / "models"


@pytest.fixture
def call(tmp_path, capfd):
    """A function that runs a command in an empty folder, where no engine answers, and returns stdout and stderr."""

    def run(*arguments, cwd=tmp_path, **environ):
        environ = {"DOCKER_HOST": "unix:///nowhere", **environ}
        console = cogpredict.Console(environ)
        world = cogpredict.World(console, environ, str(cwd), str(tmp_path), io.BytesIO(), cogpredict.Loop())
        options = cogpredict.parse_argv(list(arguments))
        assert cogpredict.COMMANDS[options.command](options, world) == 0
        return capfd.readouterr()

    return run


@pytest.fixture
def echo(tmp_path):
    """A copy of the model that says what it is told."""
    return Path(shutil.copytree(MODELS / "echo", tmp_path / "echo"))


def test_every_command_is_there_and_takes_only_its_own_flags():
    assert set(cogpredict.COMMANDS) == set(cogpredict.COMMAND_FLAGS)
    for command, (_, flags) in cogpredict.COMMAND_FLAGS.items():
        assert set(flags) <= set(cogpredict.FLAGS), command
        names = [name for flag in flags for name in cogpredict.FLAGS[flag][0].split()]
        assert len(names) == len(set(names)), f"{command} has two flags of one name"
    with pytest.raises(cogpredict.UsageError, match="unrecognized arguments: model"):
        cogpredict.parse_argv(["debug", "model"])


def test_debug_prints_the_dockerfile_of_a_build(call, echo):
    out, err = call("debug", cwd=echo)
    lines = out.splitlines()
    assert lines[0] == "FROM python:3.11-slim" and "COPY . /src" in lines and err == ""
    assert 'ENV COG_PREDICT_TYPE_STUB="predict.py:Predictor"' in lines
    assert call("debug", "--base-image", "mine:1", cwd=echo).out.splitlines()[0] == "FROM mine:1"
    for name in ("python\nRUN x", "a b", "\udcff", "$BASE", "a//b", "x:y:z", "UPPER"):
        with pytest.raises(cogpredict.UsageError):
            call("debug", "--base-image", name, cwd=echo)
    assert call("debug", "--use-cog-base-image", cwd=echo).out.startswith("FROM r8.im/cog-base:python3.11\n")
    assert call("debug", "--use-cog-base-image", "--registry", "h.example:5000", cwd=echo, COG_REGISTRY_HOST="x.example"
                ).out.startswith("FROM h.example:5000/cog-base:python3.11\n")
    assert call("debug", "--use-cog-base-image", cwd=echo, COG_REGISTRY_HOST="x.example"
                ).out.startswith("FROM x.example/cog-base:python3.11\n")
    with pytest.raises(cogpredict.UsageError, match="is not the name of an image"):
        call("debug", "--registry", "https://h.example", cwd=echo)


def test_a_name_that_no_image_can_have_is_told_with_its_place(call, echo):
    with (echo / "cog.yaml").open("a") as file:
        file.write("image: Bad Name\n")
    with pytest.raises(cogpredict.UsageError, match=r"^cog.yaml:\d: 'Bad Name' is not"):
        call("build", cwd=echo)
    with pytest.raises(cogpredict.UsageError, match="^-t: 'Bad' is not an image"):
        call("build", "-t", "Bad", cwd=echo)


def test_debug_reads_the_config_that_f_names_and_how_many_predictions_run_at_once(call, echo):
    (echo / "cog.yaml").rename(echo / "other.yaml")
    (echo / "predict.py").write_text(
        "import cog\nclass Predictor(cog.BasePredictor):\n    @cog.concurrent(max=3)\n"
        "    async def predict(self) -> str:\n        return ''\n")
    out = call("debug", "-f", "other.yaml", cwd=echo).out
    assert "cp /src/other.yaml /src/cog.yaml" in out and "COG_MAX_CONCURRENCY=3" in out


def test_debug_works_where_the_source_is_broken(call, echo):
    (echo / "predict.py").write_text("class Predictor(\n")
    out, err = call("debug", cwd=echo)
    assert "COPY . /src" in out and "warning: " in err and "predict.py" in err


def test_init_makes_a_model_that_reads_well(call, tmp_path):
    out, err = call("init")
    assert out == "" and err.count("Creating ") == 4 and "cog.pyz predict" in err
    assert {path.name for path in tmp_path.iterdir()} == {"cog.yaml", "run.py", "requirements.txt", ".dockerignore"}
    config = cogpredict.read_config(str(tmp_path / "cog.yaml"))
    found = cogpredict.read_schema(config.predict, config.project)
    assert not (config.warnings or found.warnings or found.unresolved) and config.predict == "run.py:Runner"
    schema = cogpredict.input_schema(found.document)
    assert schema.required == () and schema.properties["times"]["maximum"] == 10
    namespace = {"__name__": "run"}
    source = (tmp_path / "run.py").read_text().replace("(BaseRunner)", "")
    exec(source.replace("from cog import", "from types import SimpleNamespace as Input  #"), namespace)
    runner = namespace["Runner"]()
    runner.setup()
    assert runner.run("you", 2) == "hello you hello you"
    rules = cogpredict.parse_ignore((tmp_path / ".dockerignore").read_text())
    assert rules.judge("a/b.pyc", ())[0] and rules.judge(".git", ())[0] and not rules.judge("run.py", ())[0]


def test_init_keeps_what_is_there(call, tmp_path):
    (tmp_path / "cog.yaml").write_text("mine")
    err = call("init").err
    assert "Skipped existing cog.yaml\n" in err and "Creating run.py\n" in err and err.endswith("cog.pyz inspect\n")
    assert (tmp_path / "cog.yaml").read_text() == "mine"


def test_init_says_where_it_cannot_write(call, tmp_path):
    with pytest.raises(cogpredict.OutputError, match="cannot write .*/gone/cog.yaml: no such file"):
        call("init", cwd=tmp_path / "gone")


def test_init_leaves_no_half_written_file(call, tmp_path, monkeypatch):
    def write_some(descriptor: int, data: bytes) -> None:
        os.write(descriptor, data[:10])
        assert not (tmp_path / "cog.yaml").exists()  # a kill now leaves no half of it
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cogpredict, "write_all", write_some)
    with pytest.raises(cogpredict.OutputError, match="no space left on device"):
        call("init")
    assert not list(tmp_path.iterdir())


def test_inspect_shows_inputs_and_output_of_the_source(call):
    out = call("inspect", cwd=MODELS / "kinds").out.splitlines()
    assert out[0].split() == ["INPUT", "TYPE", "DEFAULT", "LIMITS", "CHOICES", "DESCRIPTION"]
    rows = {line.split()[0]: line for line in out[1:-2]}
    assert "(required)" in rows["needed"] and "fast, good" in rows["mode"] and "0 to 1 " in rows["scale"]
    assert "list of string" in rows["words"] and " file " in rows["file"] and " secret " in rows["secret"]
    assert out[0].index("DESCRIPTION") == rows["flag"].index("Yes or no")
    assert out[-2:] == ["", "OUTPUT  string"]
    assert "OUTPUT  {text: string, score: number, file: file, parts: l" in call("inspect", cwd=MODELS / "object").out
    assert call("inspect", cwd=MODELS / "stream").out.endswith("OUTPUT  string, in pieces\n")


def test_what_the_source_does_not_tell_is_said_to_be_asked_by_a_run(call, echo):
    (echo / "predict.py").write_text("from cog import BasePredictor, Input\nfrom elsewhere import NAMES\n\n\n"
                                     "class Predictor(BasePredictor):\n"
                                     "    def predict(self, a: str = Input(choices=list(NAMES))) -> str:\n"
                                     "        return a\n")
    for line in (["inspect"], ["predict", "--dry-run", "--engine", "none", "-i", "a=b"]):
        said = call(*line, cwd=echo).err.splitlines()
        assert said[-1] == "warning: a run will ask the model's own Python, which may tell more of its inputs"
        assert said[-2].endswith("any value is let through")


def test_inspect_json_says_what_a_build_would_take(call, echo):
    (echo / "cog.yaml").write_text("build:\n  python_version: '3.11'\n  python_packages: [idna==3.7]\n"
                                   "  system_packages: [zip]\n  run: [echo hi]\nenvironment: [A=b=c]\n"
                                   "predict: predict.py:Predictor\n")
    found = json.loads(call("inspect", "--json", cwd=echo).out)
    assert found["base_image"] == "python:3.11-slim" and found["requirements"] == ["idna==3.7"]
    assert "zip" in found["system_packages"] and found["run"] == [{"command": "echo hi"}]
    assert found["environment"] == {"A": "b=c"} and found["config"]["predict"] == "predict.py:Predictor"
    assert "text" in found["schema"]["components"]["schemas"]["Input"]["properties"] and found["runtime"] == ["cog"]


def test_predictions_that_are_no_coroutines_run_one_at_a_time(call, echo):
    with open(echo / "cog.yaml", "a") as file:
        file.write("concurrency: {max: 5}\n")
    found = call("inspect", "--json", cwd=echo)
    assert json.loads(found.out)["config"]["concurrency"] == {"max": 1}
    assert "cog.yaml:4: concurrency requires an async run() or predict() method" in found.err
    source = (echo / "predict.py").read_text()
    (echo / "predict.py").write_text(source.replace("    def predict", "    async def predict"))
    found = call("inspect", "--json", cwd=echo)
    assert json.loads(found.out)["config"]["concurrency"] == {"max": 5} and "concurrency" not in found.err


def test_a_python_patch_that_a_base_image_does_not_keep_is_said(call, echo):
    said = "the base image comes with the newest Python 3.11, whatever its patch; python_version is 3.11.4"
    for gpu, more, is_said in ((True, (), True), (False, (), False), (True, ("--use-cuda-base-image=false",), False)):
        (echo / "cog.yaml").write_text(f"build: {{python_version: 3.11.4, gpu: {gpu}}}\npredict: predict.py:Predictor")
        assert (said in call("debug", *more, cwd=echo).err) is is_said


def test_a_file_without_a_class_is_given_its_class(call, echo):
    (echo / "cog.yaml").write_text("build:\n  python_version: '3.11'\npredict: predict.py\n")
    assert 'COG_PREDICT_TYPE_STUB="predict.py:Predictor"' in call("debug", cwd=echo).out
    assert json.loads(call("inspect", "--json", cwd=echo).out)["config"]["predict"] == "predict.py:Predictor"


@pytest.mark.parametrize(("named", "said", "hint"), [
    ("absent.py:Predictor", "cog.yaml:2: failed to read predictor source absent.py: no such file", "holds predict.py"),
    ("predict.py:Other", "cog.yaml:2: predictor Other not found in predict.py, which defines load, Predictor",
     'as in "predict.py:Predictor"'),
])
def test_a_model_that_is_not_where_cog_yaml_says_is_told_with_its_line(call, echo, named, said, hint):
    (echo / "cog.yaml").write_text(f"build: {{}}\npredict: {named}\n")
    source = echo / "predict.py"
    source.write_text("def load():\n    pass\n" + source.read_text())
    with pytest.raises(cogpredict.SchemaError, match=said) as caught:
        call("inspect", cwd=echo)
    assert hint in caught.value.hint


def test_where_cog_yaml_names_nothing_the_usual_files_are_looked_at(call, echo):
    (echo / "cog.yaml").write_text("build:\n  python_version: '3.11'\n")
    out, err = call("inspect", "--json", cwd=echo)
    assert json.loads(out)["config"]["predict"] == "predict.py:Predictor"
    assert err == 'warning: cog.yaml names no predictor; it is taken as predict: "predict.py:Predictor"\n'
    source = (echo / "predict.py").read_text().replace("Predictor", "Runner")
    (echo / "run.py").write_text(f"{source}\n\nclass Runner(Runner):\n    pass\n")
    assert json.loads(call("inspect", "--json", cwd=echo).out)["config"]["predict"] == "run.py:Runner"
    for name in ("run.py", "predict.py"):
        (echo / name).write_text("print('no model')\n")
    with pytest.raises(cogpredict.SchemaError, match="no predict or train reference found"):
        call("inspect", cwd=echo)
    (echo / "train.py").write_text("def train(n: int) -> str: ...\n")
    (echo / "cog.yaml").write_text("train: train.py:train\n")
    assert json.loads(call("inspect", "--json", cwd=echo).out)["config"].get("predict") is None


def test_a_train_function_that_cannot_be_read_leaves_predictions_alone(call, echo):
    (echo / "train.py").write_text("def train(steps: int):\n    ...\n")
    config = "build:\n  python_version: '3.11'\n{}predict: predict.py:Predictor\ntrain: train.py:train\n"
    (echo / "cog.yaml").write_text(config.format(""))
    found = call("inspect", "--json", cwd=echo)
    assert "train.py:1" in found.err and "predictions work, trainings do not" in found.err
    assert set(json.loads(found.out)["schema"]["components"]["schemas"]) >= {"Input", "Output"}
    assert "train" not in json.loads(found.out)["config"]
    (echo / "cog.yaml").write_text(config.format("  sdk_version: 0.16.12\n"))
    with pytest.raises(cogpredict.SchemaError, match="train.py:1: train has no return type"):
        call("inspect", cwd=echo)


def test_inspect_shows_a_training_where_there_is_nothing_else(call, echo):
    (echo / "cog.yaml").write_text("build:\n  python_version: '3.11'\ntrain: train.py:train\n")
    (echo / "train.py").write_text("from cog import BaseModel, Path\nclass TrainingOutput(BaseModel):\n"
                                   "    weights: Path\ndef train(data: Path) -> TrainingOutput:\n    ...\n")
    out = call("inspect", cwd=echo).out
    assert out.splitlines()[1].split() == ["data", "file", "(required)"] and "OUTPUT  {weights: file}" in out


def test_build_names_the_image_by_the_flag_the_config_or_the_folder():
    config = cogpredict.Config(project="/home/me/My Model")
    assert cogpredict.image_names(cogpredict.Options(tag=("a:1", "b")), config) == ("a:1", "b")
    assert cogpredict.image_names(cogpredict.Options(), config._replace(image="r8.im/me/it")) == ("r8.im/me/it",)
    assert cogpredict.image_names(cogpredict.Options(), config) == ("cog-my-model",)
    with pytest.raises(cogpredict.UsageError):
        cogpredict.image_names(cogpredict.Options(tag=("A B",)), config)


@pytest.mark.parametrize("text, found", [
    ("id=a,src=key.txt", ("a", b"from file")), ("id=a,source=key.txt", ("a", b"from file")),
    ("id=a,env=KEY", ("a", b"from variable")), ("id=KEY", ("KEY", b"from variable")),
    ("id=key.txt", ("key.txt", b"from file")), ("type=env,id=KEY", ("KEY", b"from variable")),
    ("type=file,id=key.txt", ("key.txt", b"from file")), ('id=a,"src=key.txt"', ("a", b"from file")),
])
def test_a_secret_comes_from_a_file_of_the_project_or_a_variable(tmp_path, text, found):
    (tmp_path / "key.txt").write_text("from file")
    assert cogpredict.read_secret(text, str(tmp_path), {"KEY": "from variable"}) == found


@pytest.mark.parametrize("text, says", [
    ("a", "no key=value"), ("src=x", "no id"), ("id=a,type=disk", "unsupported type 'disk'"),
    ("id=a,mode=1", "unexpected key 'mode'"), ("id=a,src=gone", "gone: No such file"), ("id=a,env=NO", "NO is not set"),
    ("", "no id"), ("x" * 200_000, "field larger"),
])
def test_a_bad_secret_is_one_line(tmp_path, text, says):
    with pytest.raises(cogpredict.UsageError, match=says) as caught:
        cogpredict.read_secret(text, str(tmp_path), {})
    assert caught.value.hint and "\n" not in str(caught.value)


def test_build_arguments_come_from_the_flag_and_the_environment(call, tmp_path):
    def arguments(*given):
        options = cogpredict.Options(build_arg=given, no_cache=True, platform="linux/amd64")
        query = cogpredict.build_query(options, {"HTTP_PROXY": "p", "MINE": "m"})
        assert (query["nocache"], query["platform"]) == ("1", "linux/amd64")
        return json.loads(query["buildargs"])

    assert arguments("A=b=c", "MINE", "GONE") == {"HTTP_PROXY": "p", "A": "b=c", "MINE": "m"}


def test_build_reads_everything_before_it_looks_for_an_engine(call, echo):
    (echo / "deep.json").write_text(100_000 * "[")
    for flags in (["--secret", "id=a,src=gone"], ["-t", "A B"], ["--openapi-schema", "gone.json"],
                  ["--openapi-schema", "deep.json"]):
        with pytest.raises(cogpredict.UsageError):
            call("build", *flags, cwd=echo)
    with pytest.raises(cogpredict.EngineUnreachable):
        call("build", cwd=echo)


@pytest.mark.parametrize("line", [".cog", "/.cog/", "  .cog  "])
def test_a_build_whose_schema_would_be_ignored_is_refused(line, tmp_path):
    (tmp_path / ".dockerignore").write_text(f"*.bin\n{line}\n")
    with pytest.raises(cogpredict.UsageError, match="cannot be ignored"):
        cogpredict.check_ignore(str(tmp_path))


def test_rules_that_only_happen_to_match_are_none_of_our_business(tmp_path):
    cogpredict.check_ignore(str(tmp_path))
    (tmp_path / ".dockerignore").write_text("*\n!run.py\n# .cog\n.cogs\n")
    cogpredict.check_ignore(str(tmp_path))


def test_a_wheel_from_this_machine_is_told(call, echo):
    (echo / "cog-0.23.1-py3-none-any.whl").write_bytes(b"")
    assert call("debug", cwd=echo, COG_SDK_WHEEL=str(echo)).err == (
        "Using local cog wheel: cog-0.23.1-py3-none-any.whl\n")


class PodmanAsRoot(cogpredict.Engine):
    """An engine that has told what it is, and answers nothing else."""

    def __init__(self):
        super().__init__(cogpredict.parse_address("unix:///nowhere"), cogpredict.Console({}), {})
        self.is_podman, self.said = True, {"Rootless": False}

    def info(self):
        return self.said


def test_an_address_from_which_podman_passes_nothing_on_is_refused_before_anything_is_built(call, echo, monkeypatch):
    engine, what = PodmanAsRoot(), "Podman as root passes nothing on from .*::1? to a container"
    monkeypatch.setattr(cogpredict, "open_engine", lambda options, world: engine)
    for words in ("serve --host ::", "serve --host ::1", "serve --host :: --network x",
                  "exec -p [::1]:1:2 --network x a", "exec -p 1 -p [fe80::1]::2 a"):
        with pytest.raises(cogpredict.UsageError, match=what) as caught:
            call(*words.split(), cwd=echo)
        assert "127.0.0.1" in caught.value.hint
    for words in ("exec --network x -p [fe80::1]:1:2 a", "exec -p 1 a", "serve"):
        cogpredict.check_addresses(engine, cogpredict.parse_argv(words.split()))
    engine.said = {"Rootless": True}
    cogpredict.check_addresses(engine, cogpredict.parse_argv(["serve", "--host", "::1"]))
