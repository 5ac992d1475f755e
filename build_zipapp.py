#!/usr/bin/env python3
"""Writes cog.pyz: cogpredict.py and PyYAML in one executable file.

    python3 build_zipapp.py [--python PYTHON]... [--pyyaml PATH] [-o FILE]

Inside the archive:

    __main__.py                 answers --version; else puts one folder on sys.path and calls cogpredict.main()
    src/cogpredict.py           source, for every Python from 3.9 on; also what is sent along as the helper
    src/yaml/*.py               the part of PyYAML that reads nodes; its __init__.py, which imports the rest, is empty
    py/TAG-MAGIC/...pyc         the same, compiled: one folder for each Python that the archive was made for
    LICENSE, LICENSE.PyYAML

The same commit and the same set of Pythons give the same bytes, from any folder and whichever Python runs this file:
names are sorted, times are fixed, each Python compiles for itself, and the newest of the set does the packing.
"""
from __future__ import annotations

import argparse
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Iterable, NamedTuple

ROOT = Path(__file__).resolve().parent
PYYAML = "6.0.3"
READS_NODES = ("composer", "error", "events", "nodes", "parser", "reader", "resolver", "scanner", "tokens")
# Over the names, lengths and contents of the package's .py files and its LICENSE: wheels of every platform and the
# source distribution hold the same.
PYYAML_SHA256 = "d662ab9c49f78efa13413cb750e38bed0c9c46875ba572f6f4ac4921d987cfb0"
OLDEST, NEWEST = (3, 9), (3, 14)
LIMIT = 2_000_000  # bytes that the archive may have

MAIN = '''\
import sys

if sys.version_info < {oldest}:
    sys.stderr.write("cog.pyz needs Python {oldest[0]}.{oldest[1]} or newer; %s is Python %d.%d\\n"
                     % ((sys.executable,) + sys.version_info[:2]))
    sys.exit(2)
import _signal
if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:  # a Ctrl-C while this loads is no traceback
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
if sys.argv[1:] == ["--version"]:
    sys.stdout.write({version!r} + "\\n")
    sys.exit()
import gc
from importlib.util import MAGIC_NUMBER
from zipimport import zipimporter
gc.set_threshold(50_000)  # what is loaded now stays: searching it for garbage again and again takes 5 ms
folder = "py/%s-%s" % (sys.implementation.cache_tag, MAGIC_NUMBER[:2].hex())
folder, suffix = (folder, ".pyc") if folder in {folders!r} else ("src", ".py")
class Importer(zipimporter):
    def get_filename(self, name):  # the library's own loads the whole module for it, which is then loaded again
        tail = "/__init__" if self.is_package(name) else ""
        return self.archive + "/" + self.prefix + name.rpartition(".")[2] + tail + suffix
sys.path_hooks.insert(0, Importer)
sys.path.insert(0, __loader__.archive + "/" + folder)
import cogpredict
sys.exit(cogpredict.main())
'''

# Runs under each Python of the set: (source, target, name in tracebacks) lines in, .pyc files out. The hash in the
# header is never checked, so that no time stamp gets into the archive. Docstrings and annotations stay in the source
# alone, and so do the columns for a traceback's carets (no_debug_ranges): a third of the archive. So do the classes
# in functions' names, the names of variables and the line numbers: a traceback names a function and where it begins.
# For PyYAML it names the function. A NamedTuple takes as long for each annotation that is a text as for all the rest
# of a field.
COMPILE = """
import ast, marshal, sys, types
from importlib.util import MAGIC_NUMBER, source_hash
def parse(text):
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.copy_location(ast.Pass(), node.body[0])]
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.AnnAssign):
            node.annotation = ast.copy_location(ast.Name("int", ast.Load()), node)
    tree.body = [node for node in tree.body if getattr(node, "module", "") != "__future__"]
    return tree
def slim(code, own):
    change = {"co_consts": tuple(slim(each, own) if isinstance(each, types.CodeType) else each
                                 for each in code.co_consts)}
    if hasattr(code, "co_qualname"):
        change["co_qualname"] = code.co_name
    count = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & 4) + bool(code.co_flags & 8)
    if not set(code.co_varnames[count:]) & set(code.co_cellvars):
        change["co_varnames"] = code.co_varnames[:count] + tuple(map(str, range(len(code.co_varnames) - count)))
    units = len(code.co_code) // 2
    if not hasattr(code, "co_linetable"):
        change["co_lnotab"] = b""
    elif not own:
        change["co_linetable"] = b""
    elif sys.version_info < (3, 11):
        change["co_linetable"] = b"\\xfe\\0" * (units // 127) + bytes([units % 127 * 2, 0])
    else:
        change["co_linetable"] = b"\\xef\\0" * (units // 8) + bytes([0xe8 + units % 8 - 1, 0])[:2 * (units % 8)]
    return code.replace(**change)
for line in sys.stdin.read().splitlines():
    source, target, name = line.split("\\t")
    with open(source, "rb") as file:
        text = file.read()
    code = marshal.dumps(slim(compile(parse(text), name, "exec", dont_inherit=True), "cogpredict" in name))
    code = marshal.dumps(marshal.loads(code))
    with open(target, "wb") as file:
        file.write(MAGIC_NUMBER + (1).to_bytes(4, "little") + source_hash(text) + code)
"""

DESCRIBE = """
import sys
from importlib.util import MAGIC_NUMBER
folder = "py/%s-%s" % (sys.implementation.cache_tag, MAGIC_NUMBER[:2].hex())
print(sys.implementation.name, "%d.%d.%d" % sys.version_info[:3], folder, sys.executable, sep="\\t")
"""

HOW_TO_BRING_PYYAML = """\
Where this machine has a package index and only lacks pip (as root, on Debian and Ubuntu):
    apt-get install python3-venv
Else, on a machine with a package index:
    python3 -m pip download --no-deps PyYAML=={version}
Bring the file here and name it:
    python3 build_zipapp.py --pyyaml FILE"""


class Failure(Exception):
    """What stops the build, and what to do about it."""


class Python(NamedTuple):
    """An interpreter that the archive gets bytecode for."""

    version: tuple[int, ...]
    folder: str  # where its bytecode lies in the archive
    path: str


# -- PyYAML: the package's .py files and its LICENSE as {name: content}


def hash_package(files: dict[str, bytes]) -> str:
    """The SHA-256 over names, lengths and contents."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(b"%s\0%d\0" % (name.encode(), len(files[name])) + files[name])
    return digest.hexdigest()


def pick_package(members: Iterable[tuple[str, bytes]]) -> dict[str, bytes]:
    """The package out of a wheel's or a source distribution's (name, content) pairs."""
    places = re.compile(r"(?:[^/]+/lib/)?yaml/(\w+\.py)|(?:[^/]+/)?(?:licenses/)?(LICENSE)")
    found = ((places.fullmatch(name), content) for name, content in members)
    return {match[1] or match[2]: content for match, content in found if match}


def read_wheel(path: Path) -> dict[str, bytes]:
    """The package in a wheel."""
    with zipfile.ZipFile(path) as archive:
        return pick_package((name, archive.read(name)) for name in archive.namelist())


def read_sdist(path: Path) -> dict[str, bytes]:
    """The package in a source distribution; nothing is unpacked on disk."""
    import tarfile

    with tarfile.open(path) as archive:
        opened = ((member.name, archive.extractfile(member)) for member in archive if member.isfile())
        return pick_package((name, file.read()) for name, file in opened if file)


def read_folder(path: Path) -> dict[str, bytes]:
    """The package in a folder: site-packages, `pip install --target`, an unpacked source distribution, or itself."""
    for base in (path, path / "lib", path.parent):
        if (base / "yaml" / "__init__.py").is_file():
            files = {file.name: file.read_bytes() for file in (base / "yaml").glob("*.py")}
            infos = [info for info in base.iterdir() if re.fullmatch(r"pyyaml-[\d.]+\.dist-info", info.name.lower())]
            for place in (base, base.parent, *infos, *(info / "licenses" for info in infos)):
                if (place / "LICENSE").is_file():
                    files["LICENSE"] = (place / "LICENSE").read_bytes()
            return files
    return {}


def read_pyyaml(path: Path) -> dict[str, bytes]:
    """The pinned PyYAML's package at a path.

    Raises Failure: when it is something else.
    """
    import tarfile

    try:
        if path.is_dir():
            files = read_folder(path)
        else:
            files = read_wheel(path) if zipfile.is_zipfile(path) else read_sdist(path)
    except (OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise Failure(f"{path}: neither a wheel, a source distribution nor a folder: {error}") from error
    if "__init__.py" not in files or "LICENSE" not in files:
        missing = "its LICENSE" if "__init__.py" in files else "the yaml package"
        raise Failure(f"{path}: {missing} is not there; PyYAML {PYYAML} is needed, as a wheel, sdist or folder")
    if hash_package(files) != PYYAML_SHA256:
        version = re.search(rb"^__version__ = '(.*)'", files["__init__.py"], re.M)
        raise Failure(f"{path}: this is PyYAML {version[1].decode() if version else '?'} or was changed;"
                      f" exactly {PYYAML} as published is needed")
    return files


def read_installed() -> dict[str, bytes]:
    """The package that the running Python has.

    Raises Failure: when there is none, or not the pinned one.
    """
    from importlib import metadata

    try:
        distribution = metadata.distribution("PyYAML")
    except metadata.PackageNotFoundError:
        raise Failure(f"{sys.executable}: has no PyYAML") from None
    if distribution.version != PYYAML:
        raise Failure(f"{sys.executable}: has PyYAML {distribution.version}, not {PYYAML}")
    return read_pyyaml(Path(str(distribution.locate_file("yaml"))))


def list_pips(pythons: list[Python]) -> list[list[str]]:
    """What may be a pip: each Python's own, the one that Debian's and Python's venv puts into environments, uv's."""
    own = dict.fromkeys([sys.executable, *(python.path for python in reversed(pythons))])
    bundled = Path(os.__file__).with_name("ensurepip") / "_bundled"
    wheels = [wheel for folder in (Path("/usr/share/python-wheels"), bundled) for wheel in folder.glob("pip-*.whl")]
    pips = [[path, "-m", "pip"] for path in own] + [[sys.executable, f"{wheel}/pip"] for wheel in wheels]
    return pips + ([["uv", "pip"]] if shutil.which("uv") else [])


def download_pyyaml(pip: list[str]) -> dict[str, bytes]:
    """The package, fetched by one pip from the index that it is configured for.

    Raises Failure: when there is no pip, or it finds nothing.
    """
    wheel = ["--only-binary=:all:", "--platform=manylinux2014_x86_64", "--python-version=3.11", "--abi=cp311"]
    kinds = [["download", "--no-input", "--retries=1", *kind, "-d"] for kind in (wheel, ["--no-binary=:all:"])]
    if pip[0] == "uv":
        kinds = [["install", f"--python={sys.executable}", "--target"]]
    with tempfile.TemporaryDirectory() as folder:
        for kind in kinds:
            run = subprocess.run([*pip, *kind, folder, "-q", "--no-deps", f"PyYAML=={PYYAML}"],
                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                 errors="replace")
            files = sorted(Path(folder).glob("[!.]*"))  # uv leaves a lock
            if files:
                return read_pyyaml(Path(folder) if Path(folder, "yaml").is_dir() else files[0])
            if "No module named pip" in run.stdout:
                raise Failure(f"{pip[0]}: has no pip")
    said = [line for line in run.stdout.splitlines() if "error" in line.lower()] or [f"exit {run.returncode}"]
    raise Failure(f"{' '.join(pip)}: {said[0]}")


def find_pyyaml(given: str | None, pythons: list[Python]) -> dict[str, bytes]:
    """The package from the given path, else the running Python, else pip.

    Raises Failure: with everything that was tried, and what to do.
    """
    if given is not None:
        return read_pyyaml(Path(given))
    tried = []
    try:
        return read_installed()
    except Failure as failure:
        tried.append(str(failure))
    for pip in list_pips(pythons):
        try:
            return download_pyyaml(pip)
        except Failure as failure:
            tried.append(str(failure))
            if "has no pip" not in str(failure):
                break
    advice = HOW_TO_BRING_PYYAML.format(version=PYYAML)
    raise Failure("\n    ".join([f"PyYAML {PYYAML} was not found:", *tried]) + "\n" + advice)


# -- the Pythons


def describe_python(path: str) -> Python | None:
    """The interpreter at a path, by its own words; None when it is no CPython."""
    try:
        run = subprocess.run([path, "-I", "-S", "-c", DESCRIBE], stdin=subprocess.DEVNULL, capture_output=True,
                             text=True)
    except OSError:
        return None
    said = run.stdout.strip().split("\t")
    if run.returncode or len(said) != 4 or said[0] != "cpython":
        return None
    return Python(tuple(map(int, said[1].split("."))), said[2], said[3])


def is_supported(python: Python) -> bool:
    """True for a version that cog.pyz promises to run on."""
    return OLDEST <= python.version[:2] <= NEWEST


def list_candidates() -> list[str]:
    """Paths of what may be Pythons: on PATH and in version managers' folders; never a manager's shim (a script)."""
    home = Path.home()
    folders = [Path(folder) for folder in os.get_exec_path()]
    for pattern in (".pyenv/versions/*/bin", ".local/share/uv/python/*/bin", ".asdf/installs/python/*/bin"):
        folders += sorted(home.glob(pattern))
    found: dict[Path, str] = {}
    for folder in folders:
        for minor in range(OLDEST[1], NEWEST[1] + 1):
            path = folder / f"python3.{minor}"
            try:
                with path.open("rb") as file:
                    if file.read(2) != b"#!" and os.access(path, os.X_OK):
                        found.setdefault(path.resolve(), str(path))
            except OSError:
                continue
    return list(found.values())


def find_pythons() -> list[Python]:
    """The newest patch release of each supported version on this machine, oldest version first."""
    best: dict[tuple[int, ...], Python] = {}
    for path in list_candidates():
        python = describe_python(path)
        if python and is_supported(python) and python > best.get(python.version[:2], Python((), "", "")):
            best[python.version[:2]] = python
    own = describe_python(sys.executable)
    if own and is_supported(own):
        best.setdefault(own.version[:2], own)
    return [best[version] for version in sorted(best)]


def read_pythons(names: list[str]) -> list[Python]:
    """The interpreters that --python names, oldest version first.

    Raises Failure: when one does not run, is not supported, or is of the same version as another.
    """
    chosen: dict[str, Python] = {}
    for name in names:
        python = describe_python(shutil.which(name) or name)
        if python is None:
            raise Failure(f"--python {name}: no CPython runs there")
        if not is_supported(python):
            raise Failure(f"--python {name}: is Python {'.'.join(map(str, python.version))};"
                          f" 3.{OLDEST[1]} to 3.{NEWEST[1]} can be named")
        other = chosen.setdefault(python.folder, python)
        if other.path != python.path:
            raise Failure(f"--python {name}: {other.path} takes the same bytecode; name one of them")
    return sorted(chosen.values())


# -- the archive


def describe_version() -> str:
    """`cog.pyz VERSION (commit)`: the commit is `unknown` outside a git checkout of our own."""
    text = (ROOT / "cogpredict.py").read_text(encoding="utf-8")
    version = re.search(r'^__version__ = "([^"]+)"$', text, re.M)
    if version is None:
        raise Failure("cogpredict.py: has no __version__ line")
    return f"cog.pyz {version[1]} ({describe_commit()})"


def describe_commit() -> str:
    """Twelve digits of the checkout's commit, with `-dirty` when a tracked file differs from it."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*words: str) -> str:
        run = subprocess.run(["git", "-C", str(ROOT), *words], env=environ, capture_output=True, text=True)
        return run.stdout.strip() if run.returncode == 0 else ""

    if not shutil.which("git") or Path(git("rev-parse", "--show-toplevel") or "/").resolve() != ROOT:
        return "unknown"
    commit = git("rev-parse", "--short=12", "HEAD")
    dirty = git("status", "--porcelain", "--untracked-files=no")
    return (commit + ("-dirty" if dirty else "")) or "unknown"


def write_stage(stage: Path, pyyaml: dict[str, bytes], pythons: list[Python]) -> None:
    """Lay out in a folder what the archive will hold."""
    files = {f"src/yaml/{name}.py": pyyaml[f"{name}.py"] for name in READS_NODES}
    files["src/yaml/__init__.py"] = b""
    files["src/cogpredict.py"] = (ROOT / "cogpredict.py").read_bytes()
    files["LICENSE.PyYAML"] = pyyaml["LICENSE"]
    files["LICENSE"] = (ROOT / "LICENSE").read_bytes()
    folders = tuple(python.folder for python in pythons)
    files["__main__.py"] = MAIN.format(oldest=OLDEST, version=describe_version(), folders=folders).encode()
    for name, content in files.items():
        (stage / name).parent.mkdir(parents=True, exist_ok=True)
        (stage / name).write_bytes(content)
    for python in pythons:
        compile_sources(stage, python, sorted(name for name in files if name.startswith("src/")))


def compile_sources(stage: Path, python: Python, names: list[str]) -> None:
    """Have one Python compile the sources into its own folder of the stage."""
    lines = []
    for name in names:
        target = stage / python.folder / (name[len("src/"):] + "c")
        target.parent.mkdir(parents=True, exist_ok=True)
        lines.append(f"{stage / name}\t{target}\tcog.pyz/{name}\n")
    run_python(python.path, COMPILE, input="".join(lines))


def run_python(path: str, program: str, *arguments: str, input: str = "") -> None:
    """Run a program in a Python without site-packages and with a fixed hash seed.

    Raises Failure: with the program's own words.
    """
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environ.update(PYTHONHASHSEED="0", PYTHONUTF8="1")
    flags = ["-X", "no_debug_ranges", "-B", "-s", "-S"]
    run = subprocess.run([path, *flags, "-c", program, *arguments], input=input, env=environ, capture_output=True,
                         text=True)
    if run.returncode:
        raise Failure(f"{path}: {(run.stderr.strip().splitlines() or ['failed'])[-1]}")


def pack(stage: Path) -> bytes:
    """The archive's bytes: sorted names, fixed times; what is compiled or long is deflated."""
    buffer = io.BytesIO(b"#!/usr/bin/env python3\n")
    buffer.seek(0, io.SEEK_END)
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(path for path in stage.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(stage).as_posix())
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            content = path.read_bytes()
            method = zipfile.ZIP_STORED if len(content) < 2_000 else zipfile.ZIP_DEFLATED
            archive.writestr(entry, content, method, 9)
    return buffer.getvalue()


def write_packed(stage: str, target: str) -> None:
    """Pack a stage into a file: what the newest Python of the set is asked to do, so that one zlib decides."""
    Path(target).write_bytes(pack(Path(stage)))


def build(target: Path, pyyaml: dict[str, bytes], pythons: list[Python]) -> int:
    """Write the archive, whole or not at all; its size in bytes.

    Raises Failure: when it is larger than it may be, or cannot be written.
    """
    with tempfile.TemporaryDirectory() as folder:
        stage, packed = Path(folder, "stage"), Path(folder, "packed")
        stage.mkdir()
        write_stage(stage, pyyaml, pythons)
        program = "import sys; sys.path.insert(0, sys.argv[1]); import build_zipapp as b; b.write_packed(*sys.argv[2:])"
        run_python(pythons[-1].path, program, str(ROOT), str(stage), str(packed))
        content = packed.read_bytes()
    if len(content) > LIMIT:
        raise Failure(f"{len(content)} bytes are more than {LIMIT}: name fewer Pythons with --python")
    part = target.with_name(target.name + ".part")
    try:
        part.write_bytes(content)
        part.chmod(0o755)
        part.replace(target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise Failure(f"{target}: cannot be written: {error.strerror}") from error
    return len(content)


def main() -> int:
    """Build as the command line says; the exit code."""
    parser = argparse.ArgumentParser(description="Write cog.pyz: cogpredict.py and PyYAML in one executable file.")
    parser.add_argument("--python", action="append", metavar="PYTHON",
                        help="an interpreter to carry bytecode for; repeatable; default: each 3.9 to 3.14 found here")
    parser.add_argument("--pyyaml", metavar="PATH", help=f"PyYAML {PYYAML}: a wheel, a source distribution or a folder")
    parser.add_argument("-o", "--output", metavar="FILE", default=str(ROOT / "cog.pyz"),
                        help="default: cog.pyz beside this file")
    options = parser.parse_args()
    try:
        pythons = read_pythons(options.python) if options.python else find_pythons()
        size = build(Path(options.output), find_pyyaml(options.pyyaml, pythons), pythons)
    except Failure as failure:
        print(f"build_zipapp.py: {failure}", file=sys.stderr)
        return 1
    versions = ", ".join(".".join(map(str, python.version)) for python in pythons)
    print(f"{options.output}: {describe_version()}, {size} bytes, bytecode for Python {versions}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
