"""cogpredict.py keeps to its map: sections in order, each at its own job, nothing too long.

Every rule is a function of the module's source, so that each is also shown to go off on a source that breaks it.
"""
from __future__ import annotations

import ast
import builtins
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Iterator, NamedTuple

import pytest

MODULE = Path(__file__).resolve().parents[2] / "cogpredict.py"
SOURCE = MODULE.read_text()
BANNER = re.compile(r"^# == (\d+)\. ([A-Z][A-Za-z ]*?) =+$", re.M)
FUNCTION_LINES, CLASS_LINES = 60, 250
CHEAP_IMPORTS = {"__future__", "sys", "os", "time", "typing", "enum", "errno", "stat", "signal"}
ENGINE_PATH = re.compile(r"^/(containers|images|exec|build|volumes|networks|session|events|info|auth|_ping)([/?]|$)")
SOCKET_SECTIONS = {"Engine", "Session", "Helper", "Hosts"}
HTTP_SECTIONS = {"Engine", "Helper", "Hosts"}
UNIX_SECTIONS = {"Engine"}
STREAM_SECTIONS = {"Console", "Helper"}

Function = (ast.FunctionDef, ast.AsyncFunctionDef)


class Layout(NamedTuple):
    """The parsed module: its tree, and its sections as (first line, name)."""

    tree: ast.Module
    sections: list[tuple[int, str]]
    source: str

    def section_number(self, line: int) -> int:
        """How many banners stand above a line: 0 for what comes before the first."""
        return sum(1 for first, _ in self.sections if first <= line)

    def section(self, node: ast.AST) -> str:
        number = self.section_number(getattr(node, "lineno", 0))
        return self.sections[number - 1][1] if number else ""


def read_layout(source: str) -> Layout:
    """A module's text as a Layout."""
    sections = [(source.count("\n", 0, m.start()) + 1, m[2]) for m in BANNER.finditer(source)]
    return Layout(ast.parse(source), sections, source)


def find_contents_faults(layout: Layout) -> Iterator[str]:
    """The contents list in the docstring and the banners: same numbers, same names, same order."""
    docstring = ast.get_docstring(layout.tree, clean=False) or ""
    contents = re.findall(r"^ +(\d+)\. ([A-Z][A-Za-z ]*?)  +\S", docstring, re.M)
    banners = [(m[1], m[2]) for m in BANNER.finditer(layout.source)]
    if contents != banners:
        yield f"contents {contents} and banners {banners} differ"
    if [int(number) for number, _ in banners] != list(range(1, len(banners) + 1)):
        yield "banners are not numbered 1, 2, 3, ..."
    for line in layout.source.splitlines():
        if line.startswith("# ==") and not BANNER.match(line):
            yield f"not a banner: {line}"


def list_bindings(node: ast.AST) -> Iterator[str]:
    """Names that one statement gives to the scope it stands in."""
    if isinstance(node, (*Function, ast.ClassDef)):
        yield node.name
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        yield from ((alias.asname or alias.name).split(".")[0] for alias in node.names)
    else:
        yield from (n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))


def list_locals(node: ast.AST) -> set[str]:
    """Names bound anywhere inside a statement: parameters, assignments, imports, handlers, inner functions."""
    found: set[str] = set()
    for child in ast.walk(node):
        if isinstance(child, ast.arg):
            found.add(child.arg)
        elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            found.add(child.id)
        elif isinstance(child, ast.ExceptHandler) and child.name:
            found.add(child.name)
        elif child is not node and isinstance(child, (*Function, ast.ClassDef, ast.Import, ast.ImportFrom)):
            found.update(list_bindings(child))
    return found


def find_order_faults(layout: Layout) -> Iterator[str]:
    """A name refers to its own section or an earlier one."""
    defined = {name: layout.section_number(node.lineno) for node in layout.tree.body for name in list_bindings(node)}
    for statement in layout.tree.body:
        inner = list_locals(statement) if isinstance(statement, (*Function, ast.ClassDef)) else set()
        here = layout.section_number(statement.lineno)
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and node.id not in inner and defined.get(node.id, 0) > here:
                yield f"line {node.lineno}: {node.id} belongs to a later section"


def find_size_faults(layout: Layout) -> Iterator[str]:
    """No function and no class outgrows what can be read at one sight."""
    for node in ast.walk(layout.tree):
        limit = FUNCTION_LINES if isinstance(node, Function) else CLASS_LINES if isinstance(node, ast.ClassDef) else 0
        if isinstance(node, (*Function, ast.ClassDef)):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > limit:
                yield f"{node.name} has {lines} lines; at most {limit}"


def list_imports(node: ast.AST) -> list[str]:
    """Full names of the modules that one statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def find_job_faults(layout: Layout) -> Iterator[str]:
    """Sockets, HTTP, the engine's paths and the standard streams stay in the sections whose job they are."""
    for node in ast.walk(layout.tree):
        section, where = layout.section(node), f"line {getattr(node, 'lineno', 0)}"
        imports = list_imports(node)
        if "socket" in imports and section not in SOCKET_SECTIONS:
            yield f"{where}: a socket in {section}"
        if "http.client" in imports and section not in HTTP_SECTIONS:
            yield f"{where}: HTTP in {section}"
        if isinstance(node, ast.Attribute) and node.attr == "AF_UNIX" and section not in UNIX_SECTIONS:
            yield f"{where}: a unix socket in {section}"
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and section != "Engine":
            yield from [f"{where}: the engine's {m[0]} in {section}" for m in ENGINE_PATH.finditer(node.value)]
        name = ast.unparse(node) if isinstance(node, (ast.Name, ast.Attribute)) else ""
        if name in ("print", "sys.stdout", "sys.stderr") and section not in STREAM_SECTIONS:
            yield f"{where}: {name} in {section}"


def find_exit_faults(layout: Layout) -> Iterator[str]:
    """The process is left only by the last statement of the file."""
    defined = [node for node in layout.tree.body if isinstance(node, (*Function, ast.ClassDef))]
    last = max((node.end_lineno or 0 for node in defined), default=0)
    for node in ast.walk(layout.tree):
        name = ast.unparse(node) if isinstance(node, (ast.Attribute, ast.Name)) else ""
        if name in ("sys.exit", "SystemExit", "exit", "quit") and node.lineno <= last:  # type: ignore[attr-defined]
            yield f"line {node.lineno}: {name}"  # type: ignore[attr-defined]


def find_catch_all_faults(layout: Layout) -> Iterator[str]:
    """Only main catches everything; elsewhere only a clean-up that raises again."""
    for top in layout.tree.body:
        if isinstance(top, ast.FunctionDef) and top.name == "main":
            continue
        for node in ast.walk(top):
            if not isinstance(node, ast.ExceptHandler):
                continue
            names = ["bare"] if node.type is None else [n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)]
            again = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
            if not again and {"bare", "Exception", "BaseException"} & set(names):
                yield f"line {node.lineno}: catches everything"


def find_import_faults(layout: Layout) -> Iterator[str]:
    """At the top stand only imports that every command can afford; no function writes a module's name."""
    for node in layout.tree.body:
        for name in list_imports(node)[:1]:
            if name.split(".")[0] not in CHEAP_IMPORTS:
                yield f"line {node.lineno}: {name} is imported by every command"
    for inner in ast.walk(layout.tree):
        if isinstance(inner, ast.Global):
            yield f"line {inner.lineno}: global {', '.join(inner.names)}"


RULES = [
    find_contents_faults, find_order_faults, find_size_faults, find_job_faults, find_exit_faults, find_catch_all_faults,
    find_import_faults,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_module_keeps(rule: object) -> None:
    assert list(rule(read_layout(SOURCE))) == []  # type: ignore[operator]


BROKEN = [
    (find_contents_faults, '"""x\n\n    1. Other  what\n"""\n# == 1. One =====\n'),
    (find_contents_faults, "# == Two =====\n"),
    (find_order_faults, "# == 1. One =====\ndef a():\n    return b()\n# == 2. Two =====\ndef b(): pass\n"),
    (find_order_faults, "# == 1. One =====\ndef a(x: B): pass\n# == 2. Two =====\nclass B: pass\n"),
    (find_size_faults, "def a():\n" + "    pass\n" * FUNCTION_LINES),
    (find_size_faults, "class A:\n" + "    pass\n" * CLASS_LINES),
    (find_job_faults, "# == 1. Inputs =====\nimport socket\n"),
    (find_job_faults, "# == 1. Plan =====\ndef f():\n    from http.client import HTTPConnection\n"),
    (find_job_faults, "# == 1. Hosts =====\ndef f(socket):\n    socket.socket(socket.AF_UNIX)\n"),
    (find_job_faults, "# == 1. Hosts =====\ndef f(e, i):\n    e.get(f'/containers/{i}')\n"),
    (find_job_faults, "# == 1. Hosts =====\nprint(1)\n"),
    (find_job_faults, "# == 1. Hosts =====\nsys.stderr.write('')\n"),
    (find_exit_faults, "import sys\ndef f():\n    sys.exit(1)\n"),
    (find_exit_faults, "def f():\n    raise SystemExit(1)\n"),
    (find_catch_all_faults, "def f():\n    try: pass\n    except Exception as e: return e\n"),
    (find_catch_all_faults, "def f():\n    try: pass\n    except: pass\n"),
    (find_import_faults, "import ssl\n"),
    (find_import_faults, "def f():\n    global x\n    x = 1\n"),
]


@pytest.mark.parametrize(("rule", "source"), BROKEN)
def test_a_rule_goes_off(rule: object, source: str) -> None:
    assert list(rule(read_layout(source)))  # type: ignore[operator]


FINE = [
    (find_order_faults, "# == 1. One =====\ndef a(b):\n    return b\n# == 2. Two =====\ndef b(): return a\n"),
    (find_exit_faults, "import sys\ndef main(): pass\nif __name__ == '__main__':\n    sys.exit(main())\n"),
    (find_catch_all_faults, "def f():\n    try: pass\n    except BaseException:\n        g()\n        raise\n"),
    (find_catch_all_faults, "def main():\n    try: pass\n    except Exception: pass\n"),
]


@pytest.mark.parametrize(("rule", "source"), FINE)
def test_a_rule_lets_pass(rule: object, source: str) -> None:
    assert list(rule(read_layout(source))) == []  # type: ignore[operator]


# The helper travels alone to other machines' Pythons, 3.7 and newer.


def cut_section(source: str, name: str) -> str:
    """The lines of one section, from its banner to the next one's."""
    found = re.search(rf"^# == \d+\. {name} =+$.*?(?=^# == |\Z)", source, re.M | re.S)
    assert found, f"no section {name}"
    return found[0]


def find_python(version: str) -> str:
    """An interpreter of this version on this machine, or nothing."""
    homes = Path(os.path.expanduser("~root" if os.getuid() == 0 else "~")) / ".pyenv" / "versions"
    kept = sorted(str(path) for path in homes.glob(f"{version}.*/bin/python{version}"))
    return kept[-1] if kept else shutil.which(f"python{version}") or ""


def test_the_helper_is_written_for_python_3_7() -> None:
    ast.parse(cut_section(SOURCE, "Helper"), feature_version=(3, 7))


def test_the_helper_uses_no_name_from_outside() -> None:
    tree = ast.parse(cut_section(SOURCE, "Helper"))
    known = set(dir(builtins)) | {"__name__"} | {name for node in tree.body for name in list_bindings(node)}
    for statement in tree.body:
        inner = list_locals(statement)
        foreign = {n.id for n in ast.walk(statement) if isinstance(n, ast.Name)} - known - inner
        assert not foreign, f"line {statement.lineno} of the helper: {sorted(foreign)}"


@pytest.mark.parametrize("version", ["3.7", "3.8"])
def test_the_helper_loads_on_an_old_python(version: str) -> None:
    python = find_python(version)
    if not python:
        pytest.skip(f"no Python {version} on this machine")
    source = "from __future__ import annotations\n" + cut_section(SOURCE, "Helper")
    load = "import sys; exec(compile(sys.stdin.read(), 'helper', 'exec'), {'__name__': 'helper'})"
    run = subprocess.run([python, "-I", "-c", load], input=source, text=True, capture_output=True, timeout=30)
    assert run.returncode == 0, run.stderr
