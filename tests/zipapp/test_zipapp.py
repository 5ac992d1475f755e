"""build_zipapp.py and what it writes: the same bytes everywhere, runs everywhere, says what is missing."""
from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import build_zipapp

ROOT = Path(__file__).resolve().parents[2]
REAL_HOME = str(Path.home())  # read before the seal is put on
CARRIED = ("cogpredict.py", "build_zipapp.py", "LICENSE")


def run(*command: object, cwd: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    """A finished command, its output as text."""
    return subprocess.run([str(word) for word in command], cwd=cwd, env={**os.environ, **environ}, text=True,
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=120)


@pytest.fixture(scope="session")
def pythons() -> list[build_zipapp.Python]:
    """Every Python 3.9 to 3.14 on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", REAL_HOME)
        return build_zipapp.find_pythons()


@pytest.fixture(scope="session")
def flags(pythons: list[build_zipapp.Python], pyyaml: Path) -> list[str]:
    """A build's arguments: those Pythons and that PyYAML."""
    return [word for python in pythons for word in ("--python", python.path)] + ["--pyyaml", str(pyyaml)]


@pytest.fixture(scope="session")
def pyyaml() -> Path:
    """A folder with the pinned PyYAML."""
    import yaml

    return Path(yaml.__file__).parents[1]


@pytest.fixture(scope="session")
def archive(flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """cog.pyz of this checkout."""
    target = tmp_path_factory.mktemp("archive") / "cog.pyz"
    built = run(sys.executable, ROOT / "build_zipapp.py", *flags, "-o", target)
    assert built.returncode == 0, built.stderr
    return target


def copy_checkout(git: str, folder: Path) -> Path:
    """A folder with what a build needs, committed with a fixed date."""
    folder.mkdir(parents=True)
    for name in CARRIED:
        shutil.copy(ROOT / name, folder)
    date = "2020-01-01T00:00:00Z"
    words = [git, "-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
    for step in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "all"]):
        made = run(*words, *step, cwd=folder, GIT_AUTHOR_DATE=date, GIT_COMMITTER_DATE=date)
        assert made.returncode == 0, made.stderr
    return folder


def test_the_same_bytes_from_two_folders_and_every_python(
    git: str, tmp_path: Path, flags: list[str], pythons: list[build_zipapp.Python]
) -> None:
    first, second = copy_checkout(git, tmp_path / "one"), copy_checkout(git, tmp_path / "another one" / "deeper")
    builders = [python.path for python in pythons]
    results = set()
    for folder, python in [(first, path) for path in builders] + [(second, builders[0]), (second, builders[-1])]:
        built = run(python, folder / "build_zipapp.py", *flags, cwd=tmp_path, PYTHONHASHSEED=str(len(results) + 7))
        assert built.returncode == 0, built.stderr
        results.add((folder / "cog.pyz").read_bytes())
    assert len(results) == 1


def test_the_order_of_named_pythons_does_not_matter(
    tmp_path: Path, archive: Path, pythons: list[build_zipapp.Python], pyyaml: Path
) -> None:
    backwards = [word for python in reversed(pythons) for word in ("--python", python.path)]
    run(sys.executable, ROOT / "build_zipapp.py", *backwards, "--pyyaml", pyyaml, "-o", tmp_path / "b.pyz")
    assert (tmp_path / "b.pyz").read_bytes() == archive.read_bytes()


def test_the_version_names_commit_and_changes(git: str, tmp_path: Path, flags: list[str]) -> None:
    folder = copy_checkout(git, tmp_path / "checkout")
    commit = run(git, "rev-parse", "--short=12", "HEAD", cwd=folder).stdout.strip()
    run(sys.executable, folder / "build_zipapp.py", *flags)
    said = run(sys.executable, folder / "cog.pyz", "--version").stdout
    assert re.fullmatch(rf"cog\.pyz \d+\.\d+\.\d+ \({commit}\)\n", said)
    with (folder / "cogpredict.py").open("a") as file:
        file.write("# changed\n")
    run(sys.executable, folder / "build_zipapp.py", *flags)
    assert f"({commit}-dirty)" in run(sys.executable, folder / "cog.pyz", "--version").stdout


def test_the_commit_is_unknown_outside_a_checkout_of_its_own(git: str, tmp_path: Path, flags: list[str]) -> None:
    outer = copy_checkout(git, tmp_path / "other")
    inner = outer / "unpacked"
    inner.mkdir()
    for name in CARRIED:
        shutil.copy(ROOT / name, inner)
    run(sys.executable, inner / "build_zipapp.py", *flags)
    assert run(sys.executable, inner / "cog.pyz", "--version").stdout.endswith("(unknown)\n")


BYTECODE_SIZE = {9: 0.86, 10: 0.87, 11: 0.96, 12: 0.96, 13: 0.98, 14: 1.0}  # that of Python 3.MINOR, beside the largest


def test_it_has_room_for_every_supported_python(archive: Path, pythons: list[build_zipapp.Python]) -> None:
    shares = {python.folder: 0 for python in pythons}
    with zipfile.ZipFile(archive) as inside:
        for entry in inside.infolist():
            folder = "/".join(entry.filename.split("/")[:2])
            if folder in shares:
                shares[folder] += entry.compress_size
    assert min(shares[python.folder] for python in pythons) > 0
    unit = max(shares[python.folder] / BYTECODE_SIZE[python.version[1]] for python in pythons)
    present = {python.version[1] for python in pythons}
    absent = sum(size for minor, size in BYTECODE_SIZE.items() if minor not in present) * unit
    assert set(BYTECODE_SIZE) == set(range(build_zipapp.OLDEST[1], build_zipapp.NEWEST[1] + 1))
    assert archive.stat().st_size + absent <= build_zipapp.LIMIT


def test_it_is_small_executable_and_carries_the_licences(archive: Path, pyyaml: Path) -> None:
    assert os.access(archive, os.X_OK)
    assert archive.read_bytes().startswith(b"#!/usr/bin/env python3\n")
    with zipfile.ZipFile(archive) as inside:
        assert inside.testzip() is None
        assert b"Kirill Simonov" in inside.read("LICENSE.PyYAML")
        assert b"Apache License" in inside.read("LICENSE")
        assert inside.read("src/cogpredict.py") == (ROOT / "cogpredict.py").read_bytes()
        assert not [name for name in inside.namelist() if name.endswith((".so", ".pyd"))]


PROBE = """
import runpy, sys
sys.argv = [{archive!r}, "predict", "--help"]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit:
    pass
import cogpredict, yaml
sys.stderr.write("\\n%s\\n%s\\n" % (cogpredict.__spec__.origin, yaml.__spec__.origin))
source = cogpredict.__loader__.get_data(cogpredict.__loader__.archive + "/src/cogpredict.py")
assert b"# == 16. Helper ==" in source
"""


def test_every_python_runs_its_own_bytecode(archive: Path, pythons: list[build_zipapp.Python]) -> None:
    for python in pythons:
        done = run(python.path, "-I", "-W", "error", "-c", PROBE.format(archive=str(archive)))
        assert done.returncode == 0, done.stderr
        for origin in done.stderr.splitlines()[-2:]:
            assert origin.startswith(f"{archive}/{python.folder}/") and origin.endswith(".pyc"), python.version


BUG = """
import sys, traceback
sys.path.insert(0, {folder!r})
import cogpredict
try:
    cogpredict.main(3)
except TypeError as bug:
    last = traceback.extract_tb(bug.__traceback__)[-1]
    sys.stdout.write("%s %d" % (last.name, last.lineno))
"""


def test_a_traceback_names_the_function_and_where_it_begins(archive: Path, pythons: list[build_zipapp.Python]) -> None:
    source = (ROOT / "cogpredict.py").read_text().splitlines()
    line = next(number for number, text in enumerate(source, 1) if text.startswith("def main("))
    for python in pythons:
        done = run(python.path, "-I", "-c", BUG.format(folder=f"{archive}/{python.folder}"))
        assert done.stdout == f"main {line}", done.stderr


def test_a_python_without_bytecode_of_its_own_runs_the_source(
    tmp_path: Path, pyyaml: Path, pythons: list[build_zipapp.Python]
) -> None:
    one, others = pythons[-1], pythons[:-1]
    if not others:
        pytest.skip("only one Python on this machine")
    target = tmp_path / "cog.pyz"
    run(sys.executable, ROOT / "build_zipapp.py", "--python", one.path, "--pyyaml", pyyaml, "-o", target)
    for python in others:
        done = run(python.path, "-I", "-c", PROBE.format(archive=str(target)))
        assert done.returncode == 0, done.stderr
        assert done.stderr.splitlines()[-2:] == [f"{target}/src/cogpredict.py", f"{target}/src/yaml/__init__.py"]


def test_an_early_control_c_is_no_traceback(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'cogpredict':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n")
    said = run(sys.executable, archive, "predict", "--help", PYTHONPATH=str(tmp_path))
    assert (said.returncode, said.stderr) == (-signal.SIGINT, "")


def test_it_starts_from_any_folder_and_by_itself(archive: Path, tmp_path: Path) -> None:
    shutil.copy(archive, tmp_path / "cog.pyz")
    (tmp_path / "yaml.py").write_text("raise SystemExit('the wrong yaml')")
    said = run("./cog.pyz", "predict", "--help", cwd=tmp_path)
    assert said.returncode == run(sys.executable, ROOT / "cogpredict.py", "predict", "--help").returncode
    assert "the wrong yaml" not in said.stderr


@pytest.mark.parametrize("version", ["3.6", "3.7", "3.8"])
def test_an_older_python_gets_one_clear_line(archive: Path, version: str) -> None:
    kept = sorted(Path(REAL_HOME).glob(f".pyenv/versions/{version}.*/bin/python{version}"))
    if not kept:
        pytest.skip(f"no Python {version} on this machine")
    done = run(kept[-1], archive, "--version")
    assert done.returncode == 2
    assert re.fullmatch(rf"cog\.pyz needs Python 3\.9 or newer; .* is Python {re.escape(version)}\n", done.stderr)


def build_without(tmp_path: Path, *flags: object, **environ: str) -> subprocess.CompletedProcess[str]:
    """A build by a Python that has neither site-packages nor a package index."""
    return run(sys.executable, "-I", "-S", ROOT / "build_zipapp.py", "-o", tmp_path / "cog.pyz", *flags,
               PIP_NO_INDEX="1", PIP_FIND_LINKS="", PIP_CONFIG_FILE=os.devnull, **environ)


def test_without_network_and_pyyaml_it_says_what_to_do(tmp_path: Path, pythons: list[build_zipapp.Python]) -> None:
    done = build_without(tmp_path, "--python", pythons[-1].path)
    assert done.returncode == 1
    assert "PyYAML 6.0.3 was not found" in done.stderr
    assert "pip download --no-deps PyYAML==6.0.3" in done.stderr
    assert "build_zipapp.py --pyyaml FILE" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def write_installable(folder: Path, files: dict[str, bytes]) -> None:
    """A wheel in a folder that pip and uv take from there."""
    path = write_wheel(folder / "pyyaml-6.0.3-py3-none-any.whl", files)
    names = [*(f"yaml/{name}" for name in files if name != "LICENSE"), "pyyaml-6.0.3.dist-info/licenses/LICENSE",
             "pyyaml-6.0.3.dist-info/METADATA", "pyyaml-6.0.3.dist-info/WHEEL", "pyyaml-6.0.3.dist-info/RECORD"]
    with zipfile.ZipFile(path, "a") as wheel:
        wheel.writestr(names[-3], "Metadata-Version: 2.1\nName: PyYAML\nVersion: 6.0.3\n")
        wheel.writestr(names[-2], "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(names[-1], "".join(f"{name},,\n" for name in names))


@pytest.mark.parametrize("ending", [".whl/pip", "pip"])
def test_without_pip_another_brings_pyyaml(tmp_path: Path, pyyaml: Path, monkeypatch: pytest.MonkeyPatch,
                                           ending: str) -> None:
    files = build_zipapp.read_pyyaml(pyyaml)
    write_installable(tmp_path, files)
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare")
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(tmp_path), "CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
        monkeypatch.setenv(f"UV_{name}", value)
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    own, *others = build_zipapp.list_pips([])
    with pytest.raises(build_zipapp.Failure, match="has no pip"):
        build_zipapp.download_pyyaml(own)
    found = [other for other in others if (other == ["uv", "pip"]) == (ending == "pip") and other[1].endswith(ending)]
    if not found:
        pytest.skip("this machine has none")
    assert build_zipapp.download_pyyaml(found[0]) == files
    monkeypatch.setattr(build_zipapp, "PYYAML", "0.0")
    with pytest.raises(build_zipapp.Failure, match=f"^{re.escape(' '.join(found[0]))}: "):
        build_zipapp.download_pyyaml(found[0])


def write_wheel(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in files.items():
            place = "pyyaml-6.0.3.dist-info/licenses/" if name == "LICENSE" else "yaml/"
            wheel.writestr(place + name, content)
    return path


def write_sdist(path: Path, files: dict[str, bytes]) -> Path:
    folder = path.parent / "unpacked" / "pyyaml-6.0.3"
    (folder / "lib" / "yaml").mkdir(parents=True)
    for name, content in files.items():
        (folder / ("" if name == "LICENSE" else "lib/yaml") / name).write_bytes(content)
    with tarfile.open(path, "w:gz") as sdist:
        sdist.add(folder, folder.name)
    return path


def test_pyyaml_is_the_same_whichever_way_it_comes(tmp_path: Path, pyyaml: Path) -> None:
    files = build_zipapp.read_pyyaml(pyyaml)
    wheel, sdist = write_wheel(tmp_path / "a.whl", files), write_sdist(tmp_path / "a.tar.gz", files)
    unpacked = tmp_path / "unpacked" / "pyyaml-6.0.3"
    for path in (wheel, sdist, unpacked, unpacked / "lib", unpacked / "lib" / "yaml", pyyaml / "yaml"):
        assert build_zipapp.read_pyyaml(path) == files, path


@pytest.mark.parametrize(("change", "says"), [
    ({"loader.py": b"changed"}, "was changed"),
    ({"extra.py": b""}, "was changed"),
    ({"LICENSE": None}, "its LICENSE is not there"),
    ({"__init__.py": None}, "the yaml package is not there"),
    ({"__init__.py": b"__version__ = '5.1'\n"}, "PyYAML 5.1"),
])
def test_another_pyyaml_is_refused(tmp_path: Path, pyyaml: Path, change: dict[str, bytes | None], says: str) -> None:
    files = {**build_zipapp.read_pyyaml(pyyaml), **change}
    wheel = write_wheel(tmp_path / "a.whl", {name: content for name, content in files.items() if content is not None})
    with pytest.raises(build_zipapp.Failure, match=says):
        build_zipapp.read_pyyaml(wheel)


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut"])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.whl").write_bytes(content)
    done = build_without(tmp_path, "--pyyaml", tmp_path / "a.whl", "--python", sys.executable)
    assert done.returncode == 1
    assert done.stderr.startswith(f"build_zipapp.py: {tmp_path / 'a.whl'}: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["/no/such/python", "/bin/sh", "python-of-tomorrow"])
def test_a_named_python_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    done = build_without(tmp_path, "--python", name)
    assert done.stderr == f"build_zipapp.py: --python {name}: no CPython runs there\n"


def test_an_unwritable_place_is_refused(flags: list[str], tmp_path: Path) -> None:
    done = run(sys.executable, ROOT / "build_zipapp.py", *flags, "-o", tmp_path / "no" / "cog.pyz")
    assert done.returncode == 1
    assert "cannot be written: No such file or directory" in done.stderr
