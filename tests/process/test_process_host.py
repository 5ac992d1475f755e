"""Models in processes of this machine: real runtimes, in environments made from the package index."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processproject import OLD, OWN, each_python, is_quiet, list_processes, needs_old

import cogpredict

pytestmark = [pytest.mark.index, pytest.mark.slow]



@each_python
def test_a_string(projects, python):
    project = projects(python).use("echo")
    code, out, err = project.predict('{"text": "a cat", "repeat": 2}')
    assert code == 0, err
    response = json.loads(out)
    assert (response["status"], response["output"]) == ("succeeded", "a cat a cat")
    assert "not isolated: the model runs as you" in err
    assert is_quiet(str(project.folder))


@each_python
def test_an_environment_is_made_once_and_the_project_else_untouched(projects, python):
    project = projects(python).use("echo")
    project.predict("{}")
    code, _, err = project.predict("{}")
    assert code == 0, err
    assert "Preparing" not in err
    assert sorted(os.listdir(project.folder)) == [".cog", "cog.yaml", "predict.py"]
    assert (project.folder / ".cog/.gitignore").read_text() == "*\n"
    assert sorted(os.listdir(project.folder / ".cog")) == [".gitignore", "venv", "venv.lock"]


@each_python
def test_files_in_and_out(projects, python, tmp_path):
    content = os.urandom(3_000_000)
    (tmp_path / "in x.dat").write_bytes(content)
    code, out, err = projects(python).use("files").predict(
        json.dumps({"file": f"@{tmp_path}/in x.dat", "answer": "copy"}), cwd=tmp_path)
    assert code == 0, err
    [written] = json.loads(out)["output"]
    assert (tmp_path / written).read_bytes() == content
    assert sorted(os.listdir(tmp_path)) == sorted(["in x.dat", written])


@each_python
def test_several_files(projects, python, tmp_path):
    code, out, err = projects(python).use("files").predict('{"count": 3, "size": 200000}', cwd=tmp_path)
    assert code == 0, err
    assert [(tmp_path / name).stat().st_size for name in json.loads(out)["output"]] == [200000] * 3


@each_python
def test_a_stream(projects, python):
    code, out, err = projects(python).use("stream").predict('{"text": "a b c"}')
    assert code == 0, err
    assert json.loads(out)["output"] == ["a", " b", " c"]


@each_python
def test_a_failure_is_the_predictions(projects, python):
    code, out, err = projects(python).use("stream").predict('{"text": "a b c", "fail_after": 1}')
    assert code == 1, err
    assert "failed as asked" in out + err


@each_python
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_runs_on_after_a_kill(projects, python, number, tmp_path):
    project = projects(python).use("echo")
    process = project.start("{}", "--hold", TMPDIR=str(tmp_path))
    assert process.stdout.readline().startswith("ready "), process.communicate()[1]
    assert len(list_processes(str(project.folder / ".cog"))) >= 2
    scratch = [*tmp_path.glob("cog-*"), *Path("/tmp/coglet/predictions").glob(next(tmp_path.iterdir()).name)]
    assert len(scratch) == (1 if python == OLD else 2)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == -number
    assert is_quiet(str(project.folder))
    assert not any(map(Path.exists, scratch))


def test_a_killed_server_is_told(projects):
    process = projects(OWN).use("echo").start("{}", "--hold")
    os.kill(int(process.stdout.readline().split()[1]), signal.SIGKILL)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, "was killed" in err) == (6, True), err


def test_a_killed_helper_takes_the_model_along(projects):
    project = projects(OWN).use("echo")
    process = project.start("{}", "--hold")
    server = int(process.stdout.readline().split()[1])
    helper = int(Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(helper, signal.SIGKILL)
    process.communicate(timeout=30)
    assert process.returncode == 6
    assert is_quiet(str(project.folder))


def test_a_setup_that_fails(projects):
    code, _, err = projects(OWN).use("badsetup").predict("{}")
    assert code == 5, err


def test_the_upload_url_is_not_in_a_command_line(projects):
    project = projects(OWN).use("echo")
    process = project.start("{}", "--hold")
    process.stdout.readline()
    lines = list_processes(str(project.folder / ".cog"))
    process.terminate()
    process.communicate(timeout=30)
    assert any("cog.server.http" in line for line in lines)
    assert not any("/up" in line.replace("upload", "") and "127.0.0.1:2" in line for line in lines)


def test_variables_reach_the_model(projects):
    project = projects(OWN).use("echo", top="environment:\n  - A=1\n  - B=${A}2\n")
    (project.folder / "predict.py").write_text(
        "import os\nfrom cog import BasePredictor\n\n\nclass Predictor(BasePredictor):\n"
        "    def predict(self) -> str:\n"
        "        names = ['A', 'B', 'GIVEN', 'PYTHONPATH']\n"
        "        return ' '.join(os.environ.get(name, '-') for name in names)\n")
    code, out, err = project.predict("{}", PYTHONPATH="/nowhere")
    assert code == 0, err
    assert json.loads(out)["output"] == "1 12 by hand -"


@needs_old
def test_another_config_with_an_old_runtime(projects):
    project = projects(OLD).use("echo", file="other.yaml", more='  sdk_version: "0.9.26"\n')
    (project.folder / "cog.yaml").write_text("no: config\n")
    try:
        code, out, err = project.predict('{"text": "b"}', file="other.yaml")
    finally:
        (project.folder / "other.yaml").unlink()
    assert code == 0, err
    assert json.loads(out)["output"] == "b"


def await_file(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert path.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_environment_is_removed(fresh, number):
    process = fresh.use("echo").start("{}")
    await_file(fresh.folder / ".cog/venv/bin/python")
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == -number
    assert is_quiet(str(fresh.folder))
    deadline = time.monotonic() + 10
    while (fresh.folder / ".cog/venv").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert sorted(os.listdir(fresh.folder / ".cog")) == [".gitignore", "venv.lock"]


def test_two_at_once_make_one(fresh):
    first, second = [fresh.use("echo").start("{}") for _ in range(2)]
    said = [process.communicate(timeout=200)[1] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), said
    assert sum("Preparing" in err for err in said) == 1
    assert sum("Waiting for another run" in err for err in said) == 1


def test_a_requirement_that_does_not_exist(fresh):
    code, _, err = fresh.use("echo", more="  python_packages: [cog-no-such-thing==1]\n").predict("{}")
    assert code == 4
    assert "No matching distribution found for cog-no-such-thing==1" in err
    assert "error: installing the model's requirements failed" in err
    assert not (fresh.folder / ".cog/venv").exists()


def test_without_ensurepip_another_pip_does_it(fresh, monkeypatch, tmp_path):

    probe = cogpredict.probe_python

    def lacking(path, environ):
        found = probe(path, environ)
        return found and found._replace(has_ensurepip=False)

    monkeypatch.setattr(cogpredict, "probe_python", lacking)
    fresh.use("echo")
    config = cogpredict.read_config(str(fresh.folder / "cog.yaml"))
    settings = cogpredict.read_build_settings(config, os.environ, str(tmp_path))
    made = cogpredict.prepare_environment(config, settings, cogpredict.Console(os.environ, quiet=True), os.environ)
    os.close(made.lock)
    assert subprocess.run([made.python, "-Ic", "import cog"]).returncode == 0
    assert made.runtime


def test_choices_of_an_installed_package_come_from_the_environment(fresh):
    folder = fresh.use("echo", more='  python_packages: ["emoji==2.2.0"]\n').folder
    source = (folder / "predict.py").read_text().replace('default="world"', "choices=sorted(emoji.LANGUAGES)")
    (folder / "predict.py").write_text("import emoji\n" + source)
    command = [sys.executable, str(Path(cogpredict.__file__)), "predict", "--engine", "none", "-i"]
    done = subprocess.run([*command, "text=xx"], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "must be one of: de, en, es" in done.stderr, done.stderr
    done = subprocess.run([*command, "text=de"], cwd=folder, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "de\n") and "its own Python" not in done.stderr, done.stderr


def test_a_method_that_a_call_makes_takes_what_it_is_given(fresh):
    folder = fresh.use("echo").folder
    (folder / "predict.py").write_text(
        "def make(size):\n    def predict(self, text: str) -> str:\n        return f'{size} {text}'\n"
        "    return predict\nclass Predictor:\n    predict = make('small')\n")
    command = [sys.executable, str(Path(cogpredict.__file__)), "predict", "--engine", "none", "-i", "text=cat"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "small cat\n"), done.stderr
    assert "predict.py:5: Predictor: its predict() is not in the project's source; any inputs are let" in done.stderr
