"""Predictor sources to documents: golden pairs, whole documents, what real runtimes served, and the evaluator's bounds.

A golden case is tests/golden/schema/NAME.src, which may hold several files (`# file: PATH` begins one), and NAME.json:
the parts of the document that differ from model to model, with the notes taken, or the error. `--update-golden`
writes the latter anew.
"""
from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import cogpredict
from cogpredict import (
    FIXED_COMPONENTS,
    Env,
    Evaluator,
    GrammarError,
    SchemaError,
    SchemaResult,
    Scope,
    Sources,
    Unreadable,
    bind_names,
    read_schema,
    render_schema,
)

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "schema"
WHOLE = GOLDEN / "whole"
RECORDED = ROOT / "tests" / "golden" / "inputs"
CASES = sorted(path.stem for path in GOLDEN.glob("*.src"))
NEWER_GRAMMAR = (
    "names-f-string-of-a-newer-grammar", "names-type-statement", "names-type-parameter-and-match",
)


def split_case(text: str) -> tuple[str, str, dict[str, str]]:
    """A case's reference, train reference and files."""
    files, name, options = {}, "predict.py", {"reference": "predict.py:Predictor", "train": ""}
    for line in text.splitlines(keepends=True):
        if line.startswith("# file: "):
            name = line[8:].strip()
        elif line.startswith(("# reference: ", "# train: ")):
            key, _, value = line[2:].partition(":")
            options[key] = value.strip()
        else:
            files[name] = files.get(name, "") + line
    return options["reference"], options["train"], files


def read_files(
    files: dict[str, str], reference: str = "predict.py:Predictor", train: str = "", version: str = "0"
) -> SchemaResult:
    """The schema of a project that exists only as texts."""

    def read(path: str) -> str:
        try:
            return files[os.path.relpath(path, "/nowhere")]
        except KeyError:
            raise FileNotFoundError(path)

    places = {"predict": "cog.yaml:2", "train": "cog.yaml:3"}
    return read_schema(reference, "/nowhere", train=train, read=read, version=version, places=places)


def read_one(text: str) -> SchemaResult:
    return read_files({"predict.py": textwrap.dedent(text)})


def summarize(result: SchemaResult) -> dict[str, object]:
    """What differs from model to model, as a golden file holds it."""
    schemas = result.document["components"]["schemas"]
    own = {name: schema for name, schema in schemas.items() if name.endswith(("Input", "Output"))}
    enums = {name: schema for name, schema in schemas.items() if name not in FIXED_COMPONENTS}
    notes = {
        "warnings": result.warnings,
        "unresolved": [list(entry) for entry in result.unresolved],
        "concurrency": result.concurrency if result.concurrency > 1 else None,
        "is_streaming": result.is_streaming,
        "python_needed": result.python_needed,
    }
    return {**own, **enums, **{key: value for key, value in notes.items() if value}}


def run_case(text: str) -> dict[str, object]:
    reference, train, files = split_case(text)
    try:
        return summarize(read_files(files, reference, train))
    except SchemaError as error:
        version = "Python {}.{}".format(*sys.version_info)
        return {"error": str(error).split("\n"), "hint": error.hint.replace(version, "Python 3.x")}


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str, request: pytest.FixtureRequest) -> None:
    expected, text = GOLDEN / f"{name}.json", (GOLDEN / f"{name}.src").read_text()
    if name in NEWER_GRAMMAR and sys.version_info < (3, 12):
        with pytest.raises(GrammarError, match=r"^predict\.py:\d+: not valid Python"):
            read_files(split_case(text)[2])
        return
    got = json.dumps(run_case(text), indent=1, ensure_ascii=False) + "\n"
    if request.config.getoption("--update-golden"):
        expected.write_text(got)
    assert got == expected.read_text()


# -- whole documents


@pytest.mark.parametrize(
    ("name", "reference", "train"),
    [("predict", "predict.py:Predictor", ""), ("train", "", "train.py:train"),
     ("combined", "predict.py:Predictor", "train.py:train")],
)
def test_documents_are_byte_for_byte_those_that_runtimes_accept(name: str, reference: str, train: str) -> None:
    files = {f"{stem}.py": (WHOLE / f"{stem}.src").read_text() for stem in ("predict", "train")}
    result = read_files(files, reference, train, version="0.23.1")
    assert render_schema(result.document) == (WHOLE / f"{name}.json").read_text()
    assert result[1:] == ((), (), 0, False, False)


def test_streaming_is_said_at_the_path_that_starts_a_prediction() -> None:
    paths = read_files(split_case((GOLDEN / "streaming.src").read_text())[2]).document["paths"]
    assert paths["/predictions"]["post"]["x-cog-streaming"] is True
    assert "x-cog-streaming" not in json.dumps({key: value for key, value in paths.items() if key != "/predictions"})


SERVED_MODEL = """
    from typing import List
    from cog import BasePredictor, Input, Path

    class Predictor(BasePredictor):
        def predict(
            self,
            text: str = Input(description="Text to use"),
            count: int = Input(description="How many", default=1, ge=1, le=10),
            mode: str = Input(description="Mode", default="fast", choices=["fast", "slow"]),
            scale: float = Input(default=1.5),
            flag: bool = False,
            image: Path = Input(description="Optional image", default=None),
            tags: List[str] = Input(default=None),
        ) -> str: ...
"""


def normalize(schema: object) -> object:
    """A schema without what runtimes of different ages say differently about the same input."""
    if isinstance(schema, list):
        return [normalize(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    dull = schema.get("default", 0) is None
    keys = {"x-order", "nullable"} | ({"default"} if dull else set())
    return {key: normalize(value) for key, value in schema.items() if key not in keys}


@pytest.mark.parametrize("path", sorted(RECORDED.glob("openapi-*.json")), ids=lambda path: path.stem)
def test_inputs_are_those_that_the_real_runtimes_served(path: Path) -> None:
    served = json.loads(path.read_text())["components"]["schemas"]
    ours = read_one(SERVED_MODEL).document["components"]["schemas"]
    wanted = normalize(served["Input"]["properties"])
    properties = normalize(ours["Input"]["properties"])
    assert isinstance(wanted, dict) and isinstance(properties, dict) and len(wanted) >= 5
    assert {name: properties[name] for name in wanted} == wanted
    for name, schema in served["Input"]["properties"].items():
        assert ours["Input"]["properties"][name]["x-order"] == schema.get("x-order", list(wanted).index(name))
    for component in ("Output", "mode"):
        assert normalize(ours[component]) == normalize(served[component])
    assert ours["Input"]["required"] == served["Input"]["required"]


SERVED_OUTPUTS = {
    "concat": "ConcatenateIterator[str]", "dict": "dict", "file": "File", "float": "float", "iter": "Iterator[str]",
    "iterpath": "Iterator[Path]", "listobj": "List[It]", "listpath": "List[Path]", "nested": "Nested", "obj": "Out",
    "objOutput": "Output", "path": "Path",
}
SERVED_CLASSES = """
from typing import Iterator, List, Optional
from cog import BaseModel, ConcatenateIterator, File, Path

class It(BaseModel):
    a: int

class Nested(BaseModel):
    i: It
    l: List[It]

class Out(BaseModel):
    text: str
    img: Path
    opt: Optional[Path]
    tags: List[str] = []

class Output(BaseModel):
    text: str
    n: int = 3

class Predictor:
    def predict(self) -> {}: ...
"""


def inline(schema: object, components: dict[str, object], key: str = "") -> object:
    """A served output with its references resolved, and without what our documents leave to the model."""
    if isinstance(schema, list):
        return [inline(item, components) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        target = components[str(schema["$ref"]).rpartition("/")[2]]
        assert isinstance(target, dict)
        return inline({k: v for k, v in target.items() if k != "title"} | {"title": key} if key else target, components)
    if key != "properties" and schema.get("additionalProperties") is True:
        schema = {k: v for k, v in schema.items() if k != "additionalProperties"}
    drop = () if key == "properties" else ("default", "nullable")
    kept = {key: value for key, value in schema.items() if key not in drop}
    return {k: inline(v, components, "properties" if k == "properties" else "") for k, v in kept.items()}


def drop_titles(schema: object, is_map: bool = False) -> object:
    if isinstance(schema, list):
        return sorted(schema) if all(isinstance(item, str) for item in schema) else [drop_titles(s) for s in schema]
    if not isinstance(schema, dict):
        return schema
    return {k: drop_titles(v, k == "properties") for k, v in schema.items() if is_map or k not in ("title", "nullable")}


@pytest.mark.parametrize("version", ["0.9.26", "0.16.12"])
@pytest.mark.parametrize("name", sorted(SERVED_OUTPUTS))
def test_outputs_are_those_that_the_real_runtimes_served(version: str, name: str) -> None:
    served = json.loads((WHOLE / "outputs-served.json").read_text())[version][name]
    ours = read_one(SERVED_CLASSES.format(SERVED_OUTPUTS[name])).document["components"]["schemas"]["Output"]
    assert drop_titles(ours) == drop_titles(inline(served["Output"], served))


# -- what is never executed, and never takes long

HOSTILE = [
    "10 ** 10 ** 10", "'a' * 10 ** 9", "10 ** 9 * 'a'", "[0] * 10 ** 12", "list(range(10 ** 12))", "1 << 10 ** 12",
    "2 ** 4000 * 2 ** 4000", "'%1000000000d' % 1", "'%*d' % (10 ** 9, 1)", "f'{1:1000000000}'",
    "'{:{}}'.format(1, 10 ** 9)", "'{:1000000000}'.format(1)", "'x'.zfill(10 ** 9)", "'x'.ljust(10 ** 12)",
    "('a' * 9999).replace('a', 'b' * 9999)", "('a' * 999).join('b' * 99999)", "round(1, -10 ** 9)", "int('9' * 99999)",
    "[a for a in range(999) for b in range(99999)]", "[[[[[[0] * 99] * 99] * 99] * 99] * 99] * 99", "A6", "max(A6)",
    "str(A6)", "A6 == B6", "sum([[0]] * 999, [])", "LOOP", "loop()", "(lambda f: f(f))(lambda f: f(f))",
    "'{0.__class__}'.format(1)", "'{0[0]}'.format('ab')", "sorted(range(99), key=lambda x: [0] * 10 ** 9)",
    "__import__('os').system('true')", "open('/etc/passwd').read()", "eval('1')", "exec('1')", "().__class__",
    "''.__class__.__mro__", "'a'.encode()", "(x := 10 ** 9)", "1e308 * 10 // 1",
    "+".join(["1"] * 80 + ["10 ** 9999"]), "'a' 'b' * 10 ** 9", "{i: 'x' * i for i in range(99999)}",
    "[*range(999999)]", "min(*[range(10 ** 9)])", "dict(zip(range(10 ** 9), range(10 ** 9)))",
    "enumerate(range(10 ** 9))", "'abc'[:: 0]", "D[[]]", "{[]: 1}", "1 / 0", "'a' < 1", "int('x')", "(1).real",
    "...", "b'x'", "1j", "print", "len", "D",
    "chr(99999999)", "'\\ud800'", "{1: 2}", "[10 ** 400 * 1.0]", "float('nan')",
]
HOSTILE_NAMES = """
A1 = [0] * 90
A2 = [A1] * 90
A3 = [A2] * 90
A4 = [A3] * 90
A5 = [A4] * 90
A6 = [A5] * 90
B1 = [0] * 90
B2 = [B1] * 90
B3 = [B2] * 90
B6 = [B3] * 90
LOOP = LOOP2
LOOP2 = [LOOP]
D = {1: print}
def loop(n=0): return loop(n) + 1
"""


def evaluate(expression: str, names: str = "") -> object:
    scope = Scope("x.py", {}, [], {})
    bind_names(ast.parse(names).body, scope)
    evaluator = Evaluator(Sources("/nowhere", lambda path: (_ for _ in ()).throw(FileNotFoundError(path))))
    return evaluator.json(Env(scope, {}), ast.parse(expression, mode="eval").body)


@pytest.mark.parametrize("expression", HOSTILE)
def test_a_hostile_expression_is_given_up_soon(expression: str) -> None:
    begun = time.process_time()
    with pytest.raises(Unreadable):
        evaluate(expression, HOSTILE_NAMES)
    assert time.process_time() - begun < 2


@pytest.mark.parametrize("expression", HOSTILE)
def test_a_hostile_default_costs_only_itself(expression: str) -> None:
    text = f"from cog import Input\n{HOSTILE_NAMES}\nclass Predictor:\n    def predict(self, x: Any = Input(default="
    result = read_one(f"{text}{expression}), y: int = Input(default=2 + 3)) -> str: ...")
    properties = result.document["components"]["schemas"]["Input"]["properties"]
    assert "default" not in properties["x"] or expression == "..."
    assert properties["y"]["default"] == 5


def test_nothing_of_the_model_runs(tmp_path: Path) -> None:
    (tmp_path / "predict.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit\nclass Predictor:\n"
        f"    def predict(self, x: str = open({str(tmp_path / 'ran')!r}, 'w').name) -> str: ..."
    )
    read_schema("predict.py:Predictor", str(tmp_path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "text",
    ["(" * 5000, "-" * 100_000 + "1", "x = " + "1+" * 50_000 + "1", "x" + ".y" * 50_000, "x = '\0'", "\ud800",
     "if x:\n y\n z", "\n".join(" " * n + "if x:" for n in range(120)), "f" + "(" * 150 + ")" * 150,
     "x = " + "[" * 150 + "]" * 150],
    ids=range(10),
)
def test_a_text_that_no_parser_takes_is_a_schema_error(text: str) -> None:
    with pytest.raises(SchemaError):
        read_one(text)


def test_a_grammar_that_is_too_new_says_where_and_is_told_apart() -> None:
    with pytest.raises(GrammarError, match=r"^predict\.py:2: ") as caught:
        read_one("x = 1\nclass class Predictor: pass\n")
    assert caught.value.newer_grammar and str(sys.version_info[1]) in caught.value.hint
    with pytest.raises(GrammarError, match=r"^other\.py:1: "):
        model = "from other import T\nclass Predictor:\n def predict(self, x: T) -> str: ..."
        read_files({"predict.py": model, "other.py": "=="})


def test_a_chain_of_imports_of_any_length_ends() -> None:
    files = {f"m{n}.py": f"from m{(n + 1) % 60} import *\nfrom m{(n + 7) % 60} import X, Y" for n in range(60)}
    files["predict.py"] = "from m0 import *\nclass Predictor:\n    def predict(self, x: X = Y) -> str: ..."
    begun = time.process_time()
    assert "type 'X' is not in the project" in "".join(read_files(files).warnings)
    assert time.process_time() - begun < 3


# -- reading


def test_a_source_is_decoded_as_python_decodes_it(tmp_path: Path) -> None:
    body = "from cog import Input\nclass Predictor:\n    def predict(self, x: str = Input(default='é')) -> str: ..."
    for encoded in (body.encode(), b"\xef\xbb\xbf" + body.encode(), b"# coding: latin-1\n" + body.encode("latin-1")):
        (tmp_path / "predict.py").write_bytes(encoded)
        document = read_schema("predict.py:Predictor", str(tmp_path)).document
        assert document["components"]["schemas"]["Input"]["properties"]["x"]["default"] == "é"
    (tmp_path / "predict.py").write_bytes(b"x = '\xff'")
    with pytest.raises(SchemaError, match=r"failed to read predictor source predict\.py: .*encoding"):
        read_schema("predict.py:Predictor", str(tmp_path))


def test_a_missing_file_is_answered_with_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("")
    with pytest.raises(SchemaError, match="failed to read predictor source predict.py") as caught:
        read_schema("predict.py:Predictor", str(tmp_path))
    assert "model.py" in caught.value.hint


def test_no_file_outside_the_project_is_opened() -> None:
    opened: list[str] = []

    def read(path: str) -> str:
        opened.append(path)
        if path == "/p/q/predict.py":
            imports = "from ....etc import x\nfrom .. import y\nimport a.b\n"
            return imports + "class Predictor:\n    def predict(self, z: x = y) -> str: ..."
        raise FileNotFoundError

    read_schema("predict.py:Predictor", "/p/q", read=read)
    assert opened and all(path.startswith("/p/q/") for path in opened)


def test_a_document_survives_its_text() -> None:
    document = read_one(SERVED_MODEL.replace("Text to use", "日本 <&> \\u2028")).document
    assert json.loads(render_schema(document)) == document
    assert "日本 <&>" in render_schema(document)


def pythons() -> list[str]:
    """This interpreter, and those of other versions that this machine can start."""
    found = [sys.executable]
    for minor in range(9, 15):
        path = shutil.which(f"python3.{minor}")
        if path and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
            found.append(path)
    return found


@pytest.mark.parametrize("python", pythons(), ids=lambda path: Path(path).name)
def test_errors_source_and_schema_run_alone_on_any_python(python: str, tmp_path: Path) -> None:
    source = (ROOT / "cogpredict.py").read_text()
    head, errors, schema = (
        source[: source.index("# == 1. ")],
        source[source.index("# == 1. ") : source.index("# == 2. ")],
        source[source.index("# == 5. ") : source.index("# == 7. ")],
    )
    program = head + errors + schema + (
        "\nresult = read_schema('predict.py:Predictor', sys.argv[1], version='0.23.1')\n"
        "sys.stdout.write(render_schema(result.document))\n"
    )
    (tmp_path / "alone.py").write_text(program)
    shutil.copy(WHOLE / "predict.src", tmp_path / "predict.py")
    command = [python, "-I", "-W", "error", str(tmp_path / "alone.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == "" and done.stdout == (WHOLE / "predict.json").read_text()


def test_a_hundred_inputs_are_read_in_no_time() -> None:
    lines = "".join(f"p{n}: int = Input(default={n}, ge=0, le=N, description='Number {n}'),\n" for n in range(100))
    text = f"from cog import Input\nN = 1000\nclass Predictor:\n    def predict(self, {lines}) -> str: ...\n"
    times = []
    for _ in range(3):
        begun = time.process_time()
        read_one(text)
        times.append(time.process_time() - begun)
    assert min(times) < 0.06


ASKING = """\
import sys
from tables import LANGUAGES  # from outside the project
from cog import BasePredictor, Input
print("what the model prints")


class Predictor(BasePredictor):
    def predict(self, lang: str = Input(choices=sorted(LANGUAGES), default="en"), n: int = len(LANGUAGES)) -> str: ...

LANGUAGES = [*LANGUAGES]
"""


def ask_reader(python: str, project: Path, outside: Path, **changed: str) -> subprocess.CompletedProcess[str]:
    """What the reader says of a project on a Python that has more modules in the folder `outside`."""
    order = {"project": str(project), "predict": "predict.py:Predictor", "train": "", "version": "1",
             "file": "cog.yaml", "digest": hashlib.sha256(b"x").hexdigest(), **changed}
    return subprocess.run([python, "-c", cogpredict.reader_program(), json.dumps(order)], text=True,
                          capture_output=True, check=False, env={**os.environ, "PYTHONPATH": str(outside)})


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A project, and a folder of modules that are installed beside it."""
    project, outside = tmp_path / "project", tmp_path / "outside"
    project.mkdir()
    outside.mkdir()
    (outside / "cog.py").write_text("class BasePredictor:\n    def run(self): ...\ndef Input(**_): ...\n")
    (project / "cog.yaml").write_text("x")
    return project, outside


@pytest.mark.parametrize("python", pythons(), ids=lambda path: Path(path).name)
@pytest.mark.parametrize("broken", [False, True])
def test_a_models_own_python_tells_what_its_source_does_not(
    python: str, broken: bool, folders: tuple[Path, Path]
) -> None:
    project, outside = folders
    tables = "raise RuntimeError('no')" if broken else "LANGUAGES = {'en': 1, 'de': 2}.keys()"
    (outside / "tables.py").write_text(tables)
    (project / "predict.py").write_text(ASKING)
    done = ask_reader(python, project, outside)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert answers[0]["needs_more"] and "choices" in answers[0]["warnings"][0]
    assert "what the model prints" not in done.stdout
    if broken:
        assert done.returncode == 1 and len(answers) == 1 and done.stderr.strip().endswith("RuntimeError: no")
    else:
        schemas = answers[1]["document"]["components"]["schemas"]
        assert schemas["lang"]["enum"] == ["de", "en"] and not answers[1]["needs_more"]
    assert ask_reader(python, project, outside, digest="another").stdout == "{}\n"
    (project / "predict.py").write_text("def (")
    answer = json.loads(ask_reader(python, project, outside).stdout)
    assert answer["error"].startswith("predict.py:1: not valid Python") and answer["hint"]


def test_a_python_that_is_too_old_for_the_reader_says_nothing_of_a_model() -> None:
    program = "import sys; sys.version_info = (3, 8); exec(sys.argv.pop(1))"
    command = [sys.executable, "-c", program, cogpredict.reader_program(), "{}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


PAINTERS = """\
import functools
from cog import BasePredictor, Input
from .limits import LEAST

def logged(method):
    @functools.wraps(method)
    def inner(*args, **more): return method(*args, **more)
    return inner

class Painter(BasePredictor):
    @logged
    def predict(self, prompt: str, steps: int = Input(default=4, ge=LEAST)) -> str: ...

def paint(prompt: str, steps: int = Input(default=4, ge=LEAST)) -> str: ...

def made():
    def predict(self, prompt: str) -> str: ...
    return predict
"""


@pytest.mark.parametrize(("text", "found"), [
    ("from painters import Painter\nclass Predictor(Painter): ...", True),
    ("from painters import Painter as Predictor", True),
    ("from painters import Painter\nPredictor = type('Predictor', (Painter,), {})", True),
    ("from painters import paint as Predictor", True),
    ("from painters import made\nclass Predictor:\n    predict = made()", False),
    ("from painters import BasePredictor\nclass Predictor(BasePredictor): ...", None),
    ("from painters import gone as Predictor", None),
])
def test_a_models_own_python_finds_the_callable_that_its_source_does_not_hold(
    text: str, found: bool | None, folders: tuple[Path, Path]
) -> None:
    project, outside = folders
    (outside / "painters").mkdir()
    (outside / "painters" / "__init__.py").write_text(PAINTERS)
    (outside / "painters" / "limits.py").write_text("LEAST = 1")
    (project / "predict.py").write_text(text)
    done = ask_reader(sys.executable, project, outside)
    first, *rest = [json.loads(line) for line in done.stdout.splitlines()]
    assert first["needs_more"] and "any inputs are let through" in first["warnings"][0]
    assert "Input" not in first["document"]["components"]["schemas"]
    if found:
        inputs = rest[0]["document"]["components"]["schemas"]["Input"]
        assert inputs["required"] == ["prompt"] and inputs["properties"]["steps"]["minimum"] == 1
        assert not rest[0]["needs_more"] and not rest[0]["warnings"]
    elif found is None and "gone" in text:
        assert not rest and "cannot import name" in done.stderr
    elif found is None:
        assert rest[0]["error"] == "predict.py:2: Predictor has no run or predict()"
    else:
        assert rest[0]["needs_more"] and rest[0]["document"] == first["document"]
