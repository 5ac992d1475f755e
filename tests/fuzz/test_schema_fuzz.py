"""Whatever a source text holds: a document or a SchemaError, soon; and a value, where there is one, is Python's own."""
from __future__ import annotations

import ast
import json
import random
import textwrap
import time
import warnings
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cogpredict import (
    Env,
    Evaluator,
    SchemaError,
    Scope,
    Sources,
    Unreadable,
    bind_names,
    read_schema,
    render_schema,
)

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "schema"
SOURCES = [path.read_text() for path in sorted(GOLDEN.glob("*.src"))]
WORDS = sorted({word for text in SOURCES for word in text.replace("(", " ( ").replace(",", " , ").split(" ")})
QUIET = settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))


def read_text(text: str) -> None:
    """Read a source as every file of a project; anything but a document or a SchemaError goes through."""
    begun = time.process_time()

    def read(path: str) -> str:
        if path.endswith("__init__.py"):
            raise FileNotFoundError(path)
        return text

    for reference, train in (("predict.py:Predictor", ""), ("predict.py", ""), ("", "predict.py:train")):
        try:
            result = read_schema(reference, "/nowhere", train=train, read=read)
        except SchemaError as error:
            assert str(error)
        else:
            assert json.loads(render_schema(result.document)) == result.document
    assert time.process_time() - begun < 20


@QUIET
@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    read_text(text)


@QUIET
@given(st.text("abx.,:=()[]{}'\"\n *|+-<>0123456789", max_size=80), st.sampled_from(["str", "int", "List[str]"]))
def test_any_expression(text: str, kind: str) -> None:
    method = f"class Predictor:\n    def predict(self, x: {kind} = Input({text})) -> {kind}: ..."
    read_text(f"from cog import Input\n{method}")
    read_text(f"X = {text}\nclass Predictor:\n    def predict(self, x: {text}, y: X = X) -> {text}: ...")


@QUIET
@given(st.sampled_from(SOURCES), st.integers(0, 2**32), st.integers(1, 8))
def test_real_sources_with_characters_changed(text: str, seed: int, changes: int) -> None:
    chance = random.Random(seed)
    for _ in range(changes):
        at = chance.randrange(len(text))
        character = chance.choice("()[]{}:,.='\"\n\t\0é*0")
        piece = chance.choice(["", text[at : at + 9] * 2, chance.choice(WORDS), character])
        text = text[:at] + piece + text[at + chance.randrange(4) :]
    read_text(text)


class Shuffle(ast.NodeTransformer):
    """Puts expressions of a file where other expressions were: the result always parses, and seldom makes sense."""

    def __init__(self, tree: ast.AST, chance: random.Random) -> None:
        self.chance = chance
        self.pool = [node for node in ast.walk(tree) if isinstance(node, ast.expr)]

    def generic_visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, ast.expr) and self.pool and self.chance.random() < 0.08:
            return self.chance.choice(self.pool)
        return super().generic_visit(node)


@QUIET
@given(st.sampled_from(SOURCES), st.sampled_from(SOURCES), st.integers(0, 2**32))
def test_real_sources_with_expressions_exchanged(first: str, second: str, seed: int) -> None:
    try:
        tree, other = ast.parse(first), ast.parse(second)
    except SyntaxError:
        return
    shuffle = Shuffle(ast.Module(tree.body + other.body, []), random.Random(seed))
    try:
        text = ast.unparse(shuffle.visit(tree))
    except (RecursionError, ValueError, TypeError, AttributeError):
        return
    read_text(text)


NAMES = "A = [1, 2, 3]\nB = {'x': 1, 'y': [True, None]}\nC = 'text'\nD = ('p', 'q')\nN = 7"
ATOMS = st.sampled_from(
    ["0", "1", "-2", "2.5", "''", "'ab'", "'a,b'", "True", "None", "[]", "A", "B", "C", "D", "N", "'{}'"]
)
BINARY = st.sampled_from(
    ["+", "-", "*", "/", "//", "%", "**", "<<", ">>", "&", "|", "==", "!=", "<", "<=", "in", "and", "or", "is"]
)
CALLS = st.sampled_from(
    ["len", "list", "tuple", "sorted", "str", "int", "float", "min", "max", "sum", "abs", "round", "dict", "sorted"]
)
METHODS = st.sampled_from(
    ["strip()", "upper()", "split(',')", "title()", "lower()", "format(1)", "splitlines()", "copy()", "zfill(9)"]
)


def combine(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Expressions of one or two parts."""
    two = st.tuples(inner, inner)
    return st.one_of(
        st.builds(lambda pair, op: f"({pair[0]} {op} {pair[1]})", two, BINARY),
        st.builds(lambda name, x: f"{name}({x})", CALLS, inner),
        st.builds(lambda x, name: f"({x}).{name}", inner, METHODS),
        st.builds(lambda x, name: f"list(({x}).{name}())", inner, st.sampled_from(["keys", "values", "items"])),
        st.builds(lambda pair: f"[{pair[0]}, {pair[1]}]", two),
        st.builds(lambda pair: f"({pair[0]})[{pair[1]}]", two),
        st.builds(lambda pair: f"({pair[0]})[{pair[1]}:]", two),
        st.builds(lambda pair: f"[x for x in {pair[0]} if {pair[1]}]", two),
        st.builds(lambda pair: f"{{x: {pair[0]} for x in {pair[1]}}}", two),
        st.builds(lambda pair: f"({pair[0]} if {pair[1]} else N)", two),
        st.builds(lambda pair: f"','.join(str(x) for x in ({pair[0]}, {pair[1]}))", two),
        st.builds(lambda pair: f"{{{pair[0]}: {pair[1]}}}", two),
        st.builds(lambda x: f"f'{{{x}}}-{{N:03d}}'" if not set("'\\{") & set(x) else x, inner),
        st.builds(lambda x: f"(not {x})", inner),
        st.builds(lambda x: f"[*{x}, 1]", inner),
    )


@settings(deadline=None, max_examples=1000, suppress_health_check=list(HealthCheck))
@given(st.recursive(ATOMS, combine, max_leaves=8))
def test_a_value_is_the_one_that_python_gives(expression: str) -> None:
    scope, nothing = Scope("x.py", {}, [], {}), Sources("/nowhere", lambda path: "")
    bind_names(ast.parse(NAMES).body, scope)
    names: dict[str, object] = {}
    exec(NAMES, names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ours = Evaluator(nothing).json(Env(scope, {}), ast.parse(expression, mode="eval").body)
            theirs = eval(expression, names)
        except Unreadable:
            return
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError):
            return  # a part that neither value needs: Python fails on it where we leave a hole
    assert json.dumps(ours) == json.dumps(theirs)


VALUES = st.recursive(
    st.sampled_from(["1", "5", "A", "B", "C"]),
    lambda inner: st.one_of(
        st.builds("({} + {})".format, inner, inner),
        st.builds("({} if {} > 4 else {})".format, inner, inner, inner),
        st.builds("max([A + 1 for A in [{}, 2]])".format, inner),
        st.builds("max([{}], key=lambda A: A * B)".format, inner),
    ), max_leaves=3)
STATEMENTS = st.recursive(
    st.one_of(st.builds("{} = {}".format, st.sampled_from("ABC"), VALUES),
              st.builds("{} += {}".format, st.sampled_from("ABC"), VALUES),
              st.builds("A, B = {}, {}".format, VALUES, VALUES)),
    lambda inner: st.builds(
        lambda test, yes, no: "\n".join([f"if {test} > 3:", textwrap.indent("\n".join(yes), " "),
                                         "else:", textwrap.indent("\n".join(no), " ")]),
        VALUES, *[st.lists(inner, min_size=1, max_size=3)] * 2), max_leaves=5)


@QUIET
@given(st.lists(STATEMENTS, max_size=6))
def test_a_name_means_at_each_place_what_it_means_to_python(statements: list[str]) -> None:
    text = "\n".join(["A, B, C = 2, 3, 4", *statements])
    names: dict[str, object] = {}
    exec(text, names)
    scope = Scope("x.py", {}, [], {})
    bind_names(ast.parse(text).body, scope)
    evaluator = Evaluator(Sources("/nowhere", lambda path: ""))
    for name in "ABC":
        assert evaluator.json(Env(scope, {}), ast.parse(name, mode="eval").body) == names[name]
