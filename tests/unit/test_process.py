"""What the process host decides: which Python, which environment, which variables. Nothing is installed here."""
from __future__ import annotations

import io
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import cogpredict
from cogpredict import (
    BuildFailed,
    BuildSettings,
    Config,
    ConfigError,
    Console,
    EngineUnreachable,
    Environment,
    EnvironmentJob,
    Interpreter,
    Options,
    Ports,
    Run,
    RunStep,
    SetupFailed,
    UsageError,
)

OWN = ".".join(map(str, sys.version_info[:3]))
MINOR = ".".join(map(str, sys.version_info[:2]))
PORTS = Ports(26000, 20000)
CONFIG, SETTINGS, OPTIONS = Config(), BuildSettings(), Options()


def write_python(path: Path, version: str, *, venv: bool = True, script: bool = False) -> Path:
    """A file that stands for a Python; `pretend` answers for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((b"#!shim" if script else b"\x7fELF") + f" {version} {venv:d}".encode())
    path.chmod(0o755)
    return path


@pytest.fixture
def pretend(monkeypatch):
    """Pythons of write_python answer as such; nothing else is one. The paths that were asked, in order."""
    asked: list[str] = []

    def probe(path, environ):
        asked.append(path)
        words = Path(path).read_bytes()[:40].split()
        if len(words) != 3 or words[0] not in (b"\x7fELF", b"#!shim") or words[1] == b"-":
            return None
        return Interpreter(path, words[1].decode(), words[2] == b"1", True, "24.0")

    monkeypatch.setattr(cogpredict, "probe_python", probe)
    monkeypatch.setattr(sys, "executable", "")
    return asked


def test_a_python_on_path_is_found(tmp_path, pretend):
    path = write_python(tmp_path / "bin/python3.6", "3.6.9")
    found = cogpredict.find_python("3.6", {"PATH": str(tmp_path / "bin")})
    assert found is not None and found.path == str(path)


def test_a_pyenv_python_is_found_without_its_shims(tmp_path, pretend):
    shims = tmp_path / ".pyenv/shims"
    write_python(shims / "python3.6", "-", script=True)
    old = write_python(tmp_path / ".pyenv/versions/3.6.9/bin/python", "3.6.9")
    new = write_python(tmp_path / ".pyenv/versions/3.6.15/bin/python", "3.6.15")
    environ = {"HOME": str(tmp_path), "PATH": str(shims)}
    assert cogpredict.find_python("3.6", environ).path == str(new)
    assert cogpredict.find_python("3.6.9", environ).path == str(old)
    assert cogpredict.find_python("3.6.2", environ).path == str(new)
    assert str(shims / "python3.6") not in pretend


def test_a_shim_is_asked_last_and_believed_only_if_it_answers(tmp_path, pretend):
    write_python(tmp_path / "a/python3.6", "-", script=True)
    works = write_python(tmp_path / "b/python3.6", "3.6.1", script=True)
    environ = {"PATH": f"{tmp_path}/a:{tmp_path}/b"}
    assert cogpredict.find_python("3.6", environ).path == str(works)
    assert cogpredict.find_python("3.6", environ, shims=False) is None


def test_a_python_under_another_versions_name_is_not_taken(tmp_path, pretend):
    write_python(tmp_path / "bin/python3.6", "3.5.2")
    assert cogpredict.find_python("3.6", {"PATH": str(tmp_path / "bin")}) is None


def test_a_python_with_venv_is_preferred(tmp_path, pretend):
    write_python(tmp_path / "a/python3.6", "3.6.1", venv=False)
    able = write_python(tmp_path / "b/python3.6", "3.6.1")
    assert cogpredict.find_python("3.6", {"PATH": f"{tmp_path}/a:{tmp_path}/b"}).path == str(able)


def test_uv_keeps_pythons_too(tmp_path, pretend):
    path = write_python(tmp_path / ".local/share/uv/python/cpython-3.6.1-linux-x86_64-gnu/bin/python3.6", "3.6.1")
    assert cogpredict.find_python("3.6", {"HOME": str(tmp_path), "PATH": ""}).path == str(path)


def make_config(folder: Path, text: str) -> Config:
    folder.mkdir(exist_ok=True)
    (folder / "cog.yaml").write_text(text)
    return cogpredict.read_config(str(folder / "cog.yaml"))


def test_a_near_python_may_stand_in(tmp_path, monkeypatch):
    def find(version, environ, *, shims=True):
        return Interpreter(f"/p{version}", f"{version}.1", True, True, "") if version in ("3.10", "3.8") else None

    monkeypatch.setattr(cogpredict, "find_python", find)
    config = make_config(tmp_path, 'build:\n  python_version: "3.9"\npredict: "p.py:P"\n')
    assert [python.version for python in cogpredict.choose_pythons(config, {})] == ["3.10.1", "3.8.1"]
    config = make_config(tmp_path, 'build:\n  python_version: "3.12"\npredict: "p.py:P"\n')
    with pytest.raises(BuildFailed, match=r"needs Python 3\.12, which this machine does not have") as caught:
        cogpredict.choose_pythons(config, {})
    assert "python3.12-venv" in caught.value.hint
    assert caught.value.hint.endswith('; or try the Python that is here: python_version: "3.10" in cog.yaml')
    config = make_config(tmp_path, 'predict: "p.py:P"\n')
    assert [python.version for python in cogpredict.choose_pythons(config, {})] == ["3.10.1"]


def test_the_real_python_says_what_it_is():
    found = cogpredict.probe_python(sys.executable, os.environ)
    assert found is not None and found.version == OWN
    assert cogpredict.probe_python("/bin/false", os.environ) is None
    assert cogpredict.probe_python("/bin/echo", os.environ) is None
    assert cogpredict.probe_python("/no/such", os.environ) is None


def make_job(folder: Path, config: Config = CONFIG, settings: BuildSettings = SETTINGS) -> EnvironmentJob:
    return EnvironmentJob(str(folder), config, settings, {"PATH": ""})


def test_what_pip_is_held_to_changes_an_environment(tmp_path, monkeypatch):
    job = make_job(tmp_path, Config(requirements=("torch==2.0.1",)))
    held = cogpredict.digest_environment(job)
    monkeypatch.setattr(cogpredict, "NUMPY_2_TORCH", (2, 0))
    assert cogpredict.digest_environment(job) != held


def test_what_changes_an_environment_changes_its_digest(tmp_path):
    (tmp_path / "a.whl").write_bytes(b"one")
    config = Config(project=str(tmp_path), python_version="3.11", requirements=("x==1", "./a.whl"),
                    artifacts=("a.whl",))
    first = cogpredict.digest_environment(make_job(tmp_path, config))
    assert cogpredict.digest_environment(make_job(tmp_path, config._replace(predict="other.py:P"))) == first
    changed = [
        make_job(tmp_path, config._replace(requirements=("x==2", "./a.whl"))),
        make_job(tmp_path, config._replace(python_version="3.12")),
        make_job(tmp_path, config._replace(sdk_version="0.16.1")),
        make_job(tmp_path / "moved", config),
        make_job(tmp_path, config, BuildSettings(runtime=("cog.whl",), wheels=(("cog.whl", b"1"),))),
        make_job(tmp_path, config, BuildSettings(runtime=("cog.whl",), wheels=(("cog.whl", b"2"),))),
        make_job(tmp_path, config, BuildSettings(ca_certificates=("PEM",))),
    ]
    found = [cogpredict.digest_environment(job) for job in changed]
    (tmp_path / "a.whl").write_bytes(b"two")
    found.append(cogpredict.digest_environment(make_job(tmp_path, config)))
    assert len({first, *found}) == len(found) + 1
    (tmp_path / "a.whl").unlink()
    with pytest.raises(ConfigError, match=r"\./a\.whl cannot be read"):
        cogpredict.digest_environment(make_job(tmp_path, config))


def test_an_environment_is_what_its_mark_says(tmp_path):
    base = write_python(tmp_path / "base", "3.11.1")
    job = make_job(tmp_path / "venv", Config(python_version="3.11"))
    python = write_python(tmp_path / "venv/bin/python", "3.11.1")
    (tmp_path / "venv/lib/python3.11/site-packages/cog-0.16.9.dist-info").mkdir(parents=True)
    assert cogpredict.find_environment(job, "d", 7) is None
    cogpredict.write_mark(job, "d", Interpreter(str(base), "3.11.1", True, True, ""), "")
    made = Environment(str(python), job.folder, "3.11.1", "0.16.9", 7)
    assert cogpredict.find_environment(job, "d", 7) == (made, "")
    assert cogpredict.find_environment(job, "other", 7) is None
    write_python(base, "3.11.22")
    assert cogpredict.find_environment(job, "d", 7) is None
    base.unlink()
    assert cogpredict.find_environment(job, "d", 7) is None


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"inputs": "d"}',
                                  '{"inputs": "d", "base": 5, "identity": []}'])
def test_a_broken_mark_is_none(tmp_path, text):
    write_python(tmp_path / "venv/bin/python", "3.11.1")
    (tmp_path / "venv/cog.json").write_text(text)
    assert cogpredict.find_environment(make_job(tmp_path / "venv"), "d", 7) is None


def test_an_environment_on_a_stand_in_is_made_anew_when_the_right_python_came(tmp_path, pretend):
    base = write_python(tmp_path / "base", "3.7.1")
    write_python(tmp_path / "venv/bin/python", "3.7.1")
    job = EnvironmentJob(str(tmp_path / "venv"), Config(python_version="3.6"), BuildSettings(),
                         {"PATH": str(tmp_path / "bin")})
    cogpredict.write_mark(job, "d", Interpreter(str(base), "3.7.1", True, True, ""), "a stand-in")
    assert cogpredict.find_environment(job, "d", 7)[1] == "a stand-in"
    write_python(tmp_path / "bin/python3.6", "3.6.1")
    assert cogpredict.find_environment(job, "d", 7) is None


def test_the_folder_is_the_projects(tmp_path):
    config = Config(project=str(tmp_path), file_name="cog.yaml")
    assert cogpredict.environment_folder(config, {}) == str(tmp_path / ".cog/venv")
    assert (tmp_path / ".cog/.gitignore").read_text() == "*\n"
    (tmp_path / ".cog/.gitignore").write_text("mine")
    assert cogpredict.environment_folder(config._replace(file_name="gpu.yaml"), {}) == str(tmp_path / ".cog/venv-gpu")
    assert (tmp_path / ".cog/.gitignore").read_text() == "mine"


def test_a_read_only_project_has_its_environment_in_the_users_cache(tmp_path, monkeypatch):
    def refuse(folder):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(cogpredict, "keep_private", refuse)
    one = Config(project=str(tmp_path / "one"))
    folder = Path(cogpredict.environment_folder(one, {"XDG_CACHE_HOME": str(tmp_path / "cache")}))
    assert folder.name == "venv" and folder.parent.parent == tmp_path / "cache/cog" and folder.parent.is_dir()
    other = cogpredict.environment_folder(Config(project="/two"), {"HOME": str(tmp_path)})
    assert other.startswith(str(tmp_path / ".cache/cog/")) and Path(other).parent.name != folder.parent.name


def test_a_project_whose_name_path_would_split_has_its_environment_in_the_users_cache(tmp_path):
    config = Config(project=str(tmp_path / "a:b"), file_name="cog.yaml")
    folder = cogpredict.environment_folder(config, {"XDG_CACHE_HOME": str(tmp_path / "cache")})
    assert folder.startswith(str(tmp_path / "cache/cog/")) and ":" not in folder


@pytest.mark.skipif(not hasattr(os, "ST_NOEXEC"), reason="no such mounts here")
def test_a_project_on_a_noexec_mount_has_its_environment_in_the_users_cache(tmp_path, monkeypatch):
    real = os.statvfs

    def statvfs(path):
        return os.statvfs_result([*real(path)[:8], os.ST_NOEXEC | os.ST_NOSUID, 255])

    monkeypatch.setattr(os, "statvfs", statvfs)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path.replace("~", str(tmp_path / "me")))
    config = Config(project=str(tmp_path / "project"), file_name="cog.yaml")
    assert cogpredict.environment_folder(config, {}).startswith(str(tmp_path / "me/.cache/cog/"))


@pytest.mark.skipif(os.geteuid() == 0, reason="this user writes everywhere")
def test_a_folder_of_somebody_else_is_read_only(tmp_path):
    (tmp_path / ".cog").mkdir()
    (tmp_path / ".cog").chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(PermissionError):
        cogpredict.keep_private(str(tmp_path / ".cog"))


def plan_steps(tmp_path, monkeypatch, python, environ, requirements=("x",)):
    config = Config(requirements=requirements)
    monkeypatch.setattr(cogpredict, "probe_python", lambda path, environ: Interpreter("/ours", OWN, True, True, "24.0"))
    return cogpredict.plan_environment(EnvironmentJob(str(tmp_path / "v"), config, BuildSettings(), environ), python)


def test_pip_makes_the_environment(tmp_path, monkeypatch):
    steps = plan_steps(tmp_path, monkeypatch, Interpreter("/py", OWN, True, True, ""), {"PATH": ""})
    pip = [f"{tmp_path}/v/bin/python", "-Im", "pip", "install"]
    assert steps == [["/py", "-Im", "venv", "--without-pip", f"{tmp_path}/v"],
                     [f"{tmp_path}/v/bin/python", "-Im", "ensurepip", "--default-pip"],
                     [*pip, "-r", f"{tmp_path}/v/requirements.txt"], [*pip, "cog"]]


def test_a_full_disk_asks_for_room_and_for_nothing_to_install():
    log = b"Traceback (most recent call last):\n  ...\nOSError: [Errno 28] No space left on device\n"
    failure = cogpredict.step_failure(["/v/bin/python", "-Im", "ensurepip", "--default-pip"], log)
    assert "No space left on device" in str(failure) and "make room" in failure.hint


@pytest.mark.parametrize("last", ["ERROR: No matching distribution found for torch==1.7.0", "  x No solution found"])
def test_a_release_that_the_index_lacks_asks_to_look_at_the_python(last):
    failure = cogpredict.step_failure(["/v/bin/python", "-Im", "pip", "install", "-r", "r"], f"a\n{last}\n".encode())
    assert "requirements failed" in str(failure) and "python_version in cog.yaml" in failure.hint


@pytest.mark.parametrize("own, pip", [("23.0", "/py"), ("20.1", "/ours"), ("", "/ours")])
def test_without_ensurepip_a_pip_from_outside_does_it(tmp_path, monkeypatch, own, pip):
    steps = plan_steps(tmp_path, monkeypatch, Interpreter("/py", OWN, True, False, own), {"PATH": ""}, ())
    assert steps == [["/py", "-Im", "venv", "--without-pip", f"{tmp_path}/v"],
                     [pip, "-Im", "pip", "--python", f"{tmp_path}/v/bin/python", "install", "cog"]]


def test_a_python_without_venv_says_what_to_install(tmp_path, monkeypatch):
    with pytest.raises(BuildFailed, match="can make no environment") as caught:
        plan_steps(tmp_path, monkeypatch, Interpreter("/py", "3.11.2", False, False, ""), {"PATH": ""})
    assert "python3.11-venv" in caught.value.hint and "uv" in caught.value.hint


@pytest.mark.parametrize("environ, taken", [
    ({}, True), ({"PIP_INDEX_URL": "https://corp/simple"}, False), ({"PIP_FIND_LINKS": "/wheels"}, False),
    ({"PIP_INDEX_URL": "https://corp/simple", "UV_INDEX_URL": "https://corp/simple"}, True)])
def test_uv_is_used_where_it_asks_the_same_index(tmp_path, monkeypatch, environ, taken):
    uv = write_python(tmp_path / "bin/uv", "x")
    steps = plan_steps(tmp_path, monkeypatch, Interpreter("/py", OWN, False, False, ""),
                       {"PATH": str(tmp_path / "bin"), **environ}) if taken else []
    assert cogpredict.find_uv({"PATH": str(tmp_path / "bin"), **environ}) == (str(uv) if taken else "")
    assert all(step[0] == str(uv) for step in steps) and len(steps) == 3 * taken


def test_local_files_are_installed_from_the_project(tmp_path):
    config = Config(project="/proj", requirements=("--no-index", "./w/a.whl", "b"), artifacts=("w/a.whl",))
    settings = BuildSettings(wheels=(("cog-1.whl", b"wheel"),), ca_certificates=("-----BEGIN mine",))
    cogpredict.write_environment_files(make_job(tmp_path / "v", config, settings))
    assert (tmp_path / "v/requirements.txt").read_text() == "--no-index\n/proj/w/a.whl\nb\n"
    assert (tmp_path / "v/runtime/cog-1.whl").read_bytes() == b"wheel"
    assert (tmp_path / "v/certificates.pem").read_text().endswith("-----BEGIN mine")
    assert cogpredict.certificate_variables(str(tmp_path / "v"))["PIP_CERT"] == str(tmp_path / "v/certificates.pem")
    assert cogpredict.certificate_variables(str(tmp_path)) == {}


def test_what_pip_is_held_to_lies_beside_the_requirements(tmp_path):
    config = Config(project="/proj", requirements=("torch==2.0.1",))
    cogpredict.write_environment_files(make_job(tmp_path / "v", config, BuildSettings()))
    assert (tmp_path / "v/requirements.txt").read_text() == "-c constraints.txt\ntorch==2.0.1\n"
    assert (tmp_path / "v/constraints.txt").read_text() == "numpy<2\n"


def test_a_step_that_fails_shows_its_log_and_its_last_error(tmp_path, capfd):
    job = make_job(tmp_path, Config(project=str(tmp_path)))
    with pytest.raises(BuildFailed, match="installing the model's requirements failed: second"):
        cogpredict.run_step(["sh", "-c", "echo many words; echo ERROR: first; echo 'error: second'; exit 3", "install",
                             "-r"], job._replace(environ=os.environ), Console(os.environ), -1)
    assert "many words" in capfd.readouterr().err


def test_a_step_ends_with_us(tmp_path):
    class Stop(Exception):
        pass

    class Impatient(Console):
        def status(self, text):
            if text == "at work":
                raise Stop

    job = make_job(tmp_path, Config(project=str(tmp_path)))._replace(environ=os.environ)
    began = time.monotonic()
    with pytest.raises(Stop):
        cogpredict.run_step(["sh", "-c", "echo at work; sleep 30"], job, Impatient(os.environ), -1)
    assert time.monotonic() - began < 20


def test_a_signal_as_a_step_begins_ends_it_too(tmp_path):
    program = """
import os, signal, subprocess, sys
import cogpredict as cog
cog.catch_signals(cog.Loop())
class Pressed(subprocess.Popen):
    def __init__(self, *words, **how):
        super().__init__(*words, **how)
        os.kill(os.getpid(), signal.SIGINT)
subprocess.Popen = Pressed
folder = sys.argv[1] + "/v"
job = cog.EnvironmentJob(folder, cog.Config(project=sys.argv[1]), cog.BuildSettings(), os.environ)
try:
    cog.run_step(["sh", "-c", "echo $$ > begun; sleep 1; touch late; sleep 30"], job, cog.Console({}), -1)
except cog.Interrupted as interruption:
    cog.die_by(interruption.signal_number)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, timeout=20,
                          cwd=os.path.dirname(cogpredict.__file__), env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")
    time.sleep(1.5)
    assert not (tmp_path / "late").exists() and not (tmp_path / "v").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_what_ends_us_between_two_steps_leaves_no_half_of_an_environment(tmp_path, number):
    program = """
import os, sys
import cogpredict as cog
number, us, remove = int(sys.argv[2]), os.getpid(), cog.remove_tree
folder = sys.argv[1] + "/v"
cog.catch_signals(cog.Loop())
def write(job):
    os.makedirs(folder + "/runtime")
    os.kill(us, number)
def remove_slowly(folder):  # a second Ctrl-C comes meanwhile
    if os.getpid() == us and os.path.exists(folder):
        os.kill(us, number)
    return remove(folder)
cog.remove_tree, cog.write_environment_files, cog.plan_environment = remove_slowly, write, lambda job, python: []
config = cog.Config(project=sys.argv[1], python_version="3.11")
job = cog.EnvironmentJob(folder, config, cog.BuildSettings(), os.environ)
try:
    cog.fill_environment(job, "", cog.probe_python(sys.executable, os.environ), cog.Console({}, quiet=True), -1)
except cog.Interrupted as interruption:
    cog.die_by(interruption.signal_number)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path), str(int(number))], capture_output=True,
                          cwd=os.path.dirname(cogpredict.__file__), env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
                          timeout=20)
    assert (done.returncode, done.stderr) == (-number, b"")
    deadline = time.monotonic() + 5
    while (tmp_path / "v").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_step_has_its_temporary_files_in_the_environment(tmp_path):
    job = make_job(tmp_path / "v", Config(project=str(tmp_path)))._replace(environ=os.environ)
    script = 'test "$TMPDIR" = "$0/tmp" && touch "$TMPDIR/half" && test -n "$1"'
    cogpredict.run_step(["sh", "-c", script, job.folder, "x"], job, Console(os.environ), -1)
    assert not os.path.exists(f"{job.folder}/tmp")


def test_who_changes_an_environment_waits_for_those_who_use_it(tmp_path):
    path = tmp_path / "lock"
    descriptors = [os.open(path, os.O_RDWR | os.O_CREAT) for _ in range(3)]
    console, order = Console(os.environ, quiet=True), []
    try:
        for user in descriptors[:2]:
            cogpredict.take_lock(user, False, console, "")

        def change():
            cogpredict.take_lock(descriptors[2], True, console, "waiting")
            order.append("changed")

        thread = threading.Thread(target=change)
        thread.start()
        time.sleep(0.15)
        order.append("used")
        for user in descriptors[:2]:
            os.close(user)
        thread.join(5)
        assert order == ["used", "changed"]
    finally:
        os.close(descriptors[2])


@pytest.fixture
def environment(tmp_path):
    (tmp_path / "proj/.cog/venv/bin").mkdir(parents=True)
    return Environment(f"{tmp_path}/proj/.cog/venv/bin/python", f"{tmp_path}/proj/.cog/venv", "3.11.1", "0.23.0", -1)


def plan(environment, config=CONFIG, options=OPTIONS, variables=None, environ=None):
    config = config._replace(project=config.project or str(Path(environment.folder).parents[1]))
    run = Run("cog-1", "TOKEN", PORTS)
    return cogpredict.plan_process(options, config, environment, run, variables or {}, environ or {})


def test_the_servers_variables(environment):
    config = Config(predict="p.py:P", environment=(("A", "${HOME}/x"), ("B", "$A:2"), ("C", "yaml")))
    made = plan(environment, config, variables={"C": "flag"}, environ={
        "HOME": "/me", "PATH": "/usr/bin", "PYTHONPATH": "/bad", "PYTHONHOME": "/bad", "VIRTUAL_ENV": "/bad",
        "HTTPS_PROXY": "http://proxy", "NO_PROXY": "corp", "PORT": "1"})
    env = made.env
    assert (env["A"], env["B"], env["C"]) == ("/me/x", "/me/x:2", "flag")
    assert "PYTHONPATH" not in env and "PYTHONHOME" not in env
    assert env["VIRTUAL_ENV"] == environment.folder
    assert env["PATH"] == f"{environment.folder}/bin:/usr/bin"
    assert (env["HTTPS_PROXY"], env["NO_PROXY"]) == ("http://proxy", "corp,127.0.0.1,localhost")
    assert (env["PORT"], env["COG_PREDICT_TYPE_STUB"]) == ("26000", "p.py:P")
    assert made.cwd == str(Path(environment.folder).parents[1]) and made.links == "" and made.ports == PORTS


def test_only_the_model_sees_the_lanes_token(environment):
    made = plan(environment)
    assert "TOKEN" not in " ".join(made.argv)
    assert made.env["COG_PYZ_UPLOAD_URL"] == "http://127.0.0.1:20000/TOKEN/up"
    assert made.argv[-2:] == ["--host", "127.0.0.1"]


def test_a_model_has_folders_of_its_own_for_temporary_files(environment, monkeypatch, tmp_path):
    (tmp_path / "coglet").mkdir()
    monkeypatch.setattr(cogpredict, "COGLET_SCRATCH", str(tmp_path / "coglet/predictions"))
    made = plan(environment)
    assert made.env["TMPDIR"] == made.scratch[0] and os.path.basename(made.scratch[0]) == "cog-1"
    assert made.scratch[1:] == [str(tmp_path / "coglet/predictions/cog-1")]
    assert plan(environment._replace(runtime="0.16.12")).scratch == made.scratch[:1]
    assert plan(environment, options=Options(command="serve")).scratch == made.scratch[:1]
    assert plan(environment, variables={"TMPDIR": "/x"}).env["TMPDIR"] == "/x"
    cogpredict.share_coglet_scratch()
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in tmp_path.glob("coglet/**")] == [0o1777, 0o1777]
    (tmp_path / "victim").mkdir(mode=0o700)
    (tmp_path / "blocked").symlink_to("victim")
    monkeypatch.setattr(cogpredict, "COGLET_SCRATCH", str(tmp_path / "blocked/predictions"))
    with pytest.raises(SetupFailed, match="blocked, which cannot be written"):
        cogpredict.share_coglet_scratch()
    assert stat.S_IMODE((tmp_path / "victim").stat().st_mode) == 0o700


@pytest.mark.parametrize("file, runtime, linked", [
    ("cog.yaml", "0.9.26", False), ("other.yaml", "0.9.26", True), ("other.yaml", "0.17.0", False)])
def test_an_old_runtime_finds_another_config_under_the_usual_name(environment, tmp_path, file, runtime, linked):
    project = tmp_path / "proj"
    (project / "sub").mkdir()
    for name in ("cog.yaml", "other.yaml", "predict.py"):
        (project / name).write_text(name)
    made = plan(environment._replace(runtime=runtime), Config(project=str(project), file_name=file))
    assert (made.links, made.cwd) == ((str(project), f"{environment.folder}/project") if linked else ("", str(project)))
    if linked:
        cogpredict.link_project(made.links, made.cwd, made.config_name)
        (project / "predict.py").rename(project / "model.py")
        cogpredict.link_project(made.links, made.cwd, made.config_name)
        assert sorted(os.listdir(made.cwd)) == ["cog.yaml", "model.py", "other.yaml", "sub"]
        assert (Path(made.cwd) / "cog.yaml").read_text() == "other.yaml"


def test_a_read_only_project_is_linked_to_where_a_schema_can_lie(environment, tmp_path):
    (tmp_path / "other/.cog").mkdir(parents=True)
    (tmp_path / "other/predict.py").write_text("")
    made = plan(environment, Config(project=str(tmp_path / "other")))
    assert (made.links, made.cwd) == (str(tmp_path / "other"), f"{environment.folder}/project")
    cogpredict.link_project(made.links, made.cwd, made.config_name)
    assert (Path(made.cwd) / "predict.py").is_file() and not (Path(made.cwd) / ".cog").exists()


@pytest.mark.parametrize("options, flag", [
    (Options(volume=("a:/b",)), "--volume"), (Options(network="host"), "--network"), (Options(user="me"), "--user"),
    (Options(platform="linux/arm64"), "--platform")])
def test_flags_that_need_a_container_are_refused_before_anything_is_made(tmp_path, options, flag):
    world = cogpredict.World(cogpredict.Console({}), {}, str(tmp_path), str(tmp_path), io.BytesIO(), cogpredict.Loop())
    with pytest.raises(UsageError, match=f"{flag} needs a container engine"):
        cogpredict.model_here(cogpredict.Model(Config(project=str(tmp_path)), {}, needs_python=True), options, world)
    assert not list(tmp_path.iterdir())


def test_gpus_that_were_asked_for_have_to_be_there(tmp_path, monkeypatch):
    world = cogpredict.World(cogpredict.Console({}), {}, str(tmp_path), str(tmp_path), io.BytesIO(), cogpredict.Loop())
    monkeypatch.setattr(cogpredict, "has_nvidia", lambda: False)
    config = Config(project=str(tmp_path), predict="p.py:P")
    with pytest.raises(EngineUnreachable, match="--gpus: this machine has no NVIDIA device"):
        cogpredict.note_process(Options(gpus="all"), config, world)
    monkeypatch.setattr(cogpredict, "has_nvidia", lambda: True)
    cogpredict.note_process(Options(gpus="all"), config, world)


def test_an_environment_is_forgotten_where_nothing_of_before_is_to_be_used(tmp_path):
    world = cogpredict.World(cogpredict.Console({}), {}, str(tmp_path), str(tmp_path), io.BytesIO(), cogpredict.Loop())
    config = Config(project=str(tmp_path), file_name="cog.yaml", predict="p.py:P")
    mark = tmp_path / ".cog/venv/cog.json"
    mark.parent.mkdir(parents=True)
    mark.write_text("{}")
    cogpredict.note_process(Options(no_cache=True, dry_run=True), config, world)
    assert mark.exists()
    cogpredict.note_process(Options(no_cache=True), config, world)
    assert not mark.exists()


def test_gpus_are_hidden_as_asked(environment):
    assert plan(environment, options=Options(gpus="2")).env["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert plan(environment, options=Options(cpu=True)).env["CUDA_VISIBLE_DEVICES"] == ""
    assert "CUDA_VISIBLE_DEVICES" not in plan(environment).env


def test_the_notice_names_what_cannot_be_honoured(tmp_path):
    (tmp_path / "p.py").write_text("open('/src/weights')")
    config = Config(project=str(tmp_path), predict="p.py:P", system_packages=("ffmpeg", "sox"), gpu=True, cuda="11.8",
                    run=(RunStep("a"), RunStep("b")))
    assert cogpredict.process_notice(config) == (
        "not isolated: the model runs as you, in a virtual environment; without system_packages (ffmpeg, sox), "
        "run (2 commands), the image with CUDA 11.8, /src/, which p.py names")
    assert cogpredict.process_notice(Config(project=str(tmp_path), predict="gone.py:P")).endswith("virtual environment")


@pytest.mark.parametrize(("torch", "wanted"), [
    ("torch==2.0.1", "torch==2.0.1"), ("torch", "torch"), ("torch>=2.1", "torch>=2.1"), ("torch==9.9", "torch==9.9")])
def test_a_gpu_models_torch_is_for_the_cpu_where_there_is_no_gpu(tmp_path, torch, wanted):
    config = make_config(
        tmp_path, f'build: {{python_version: "3.11", gpu: true, python_packages: ["{torch}", tqdm]}}\n')
    assert config.gpu and not any("cpu" in line for line in config.requirements)
    found = cogpredict.without_cuda(config)
    index = [line for line in found.requirements if line.startswith("-")]
    assert [line.rstrip("/").rpartition("/")[2] for line in index] == ["cpu"], found.requirements
    assert [line for line in found.requirements if line[0] != "-"] == [wanted, "tqdm"] and found.gpu
    assert not found.torch_limit, "pip takes the newest for the CPU"


def test_a_gpu_model_without_torch_is_installed_as_it_is(tmp_path):
    config = make_config(tmp_path, 'build: {python_version: "3.11", gpu: true, python_packages: [tqdm]}\n')
    assert cogpredict.without_cuda(config).requirements == config.requirements == ("tqdm",)


def test_free_ports_are_free():
    import socket

    taken = cogpredict.pick_free_ports(5)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", taken.model))
        listener.listen()
        other = cogpredict.pick_free_ports(5)
    assert other.model != taken.model and all(20000 <= port < 32768 for port in [*taken, *other])
