"""Inputs: from -i and --json, with the schema of any runtime, to what the model gets; and every fault in its words."""
from __future__ import annotations

import base64
import io
import json
import os
from pathlib import Path
from typing import Any, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cogpredict as cog

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "inputs"
STRING, INTEGER, NUMBER, BOOLEAN = ({"type": kind} for kind in ("string", "integer", "number", "boolean"))
FILE = {"type": "string", "format": "uri"}
SECRET = {"type": "string", "format": "password", "writeOnly": True, "x-cog-secret": True}


def array(items: Any) -> Any:
    return {"type": "array", "items": items}


def union(*members: Any) -> Any:
    return {"anyOf": list(members)}


def schema_of(required: tuple[str, ...] = (), old: bool = False, **properties: Any) -> cog.InputSchema:
    """A schema read from a document, as a runtime would write it."""
    schemas: Any = {"Input": {"type": "object", "properties": properties, "required": list(required)},
                    "size": {"type": "string", "enum": ["small", "medium", "large"]},
                    "steps": {"type": "integer", "enum": [1, 2]}}
    if old:
        schemas["WebhookEvent"] = {"enum": ["start"]}
    found = cog.input_schema({"components": {"schemas": schemas}})
    assert found is not None
    return found


class Shelf:
    """A folder of files, and a Reader of them."""

    def __init__(self, folder: Path, stdin: bytes = b"") -> None:
        self.folder = folder
        self.read = cog.Reader(io.BytesIO(stdin), str(folder), str(folder))

    def put(self, name: str, data: bytes) -> None:
        (self.folder / name).write_bytes(data)


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    shelf = Shelf(tmp_path, b"from stdin")
    shelf.put("a.png", b"\x89PNG")
    shelf.put("b.JPG", b"jpg")
    shelf.put("t.txt", "täxt\n".encode())
    shelf.put("o.json", b'{"a": [1, 2]}\n')
    shelf.put("n.txt", b"7\n")
    yield shelf
    shelf.read.close()


def named(shelf: Shelf, schema: Any, *pairs: str) -> Any:
    """What -i gives, its files as (name, mime, data), checked."""
    values = cog.parse_named_inputs([tuple(pair.split("=", 1)) for pair in pairs], schema, shelf.read)  # type: ignore
    cog.check_inputs(values, schema)
    return plain(values)


def from_json(shelf: Shelf, schema: Any, text: str) -> Any:
    """What --json gives, likewise."""
    values = cog.parse_json_inputs(text, schema, shelf.read)
    cog.check_inputs(values, schema)
    return plain(values)


def plain(value: Any) -> Any:
    if isinstance(value, cog.LocalFile):
        with value.open() as source:
            data = source.read()
        assert len(data) == value.size
        return (value.name, value.mime, data)
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def fault(shelf: Shelf, schema: Any, *pairs: str) -> str:
    with pytest.raises(cog.InputError) as caught:
        named(shelf, schema, *pairs)
    assert caught.value.exit_code == 2
    return str(caught.value)


PNG = ("a.png", "image/png", b"\x89PNG")
JPG = ("b.JPG", "image/jpeg", b"jpg")


# Values by type


@pytest.mark.parametrize(("fragment", "text", "value"), [
    (STRING, "a=b c", "a=b c"), (STRING, "", ""), (STRING, "7", "7"), (STRING, "true", "true"), (STRING, "[1]", "[1]"),
    (STRING, "null", "null"), (STRING, "\\@home", "@home"), (STRING, "\\n", "\\n"), (STRING, "a@b", "a@b"),
    (INTEGER, "3000000000", 3000000000), (INTEGER, "-9223372036854775808", -(2**63)), (INTEGER, "+5", 5),
    (INTEGER, "18446744073709551615", 2**64 - 1), (INTEGER, " 5 ", 5), (INTEGER, "007", 7),
    (NUMBER, "1", 1), (NUMBER, "0.1", 0.1), (NUMBER, "1e-7", 1e-7), (NUMBER, ".5", 0.5), (NUMBER, "-2.", -2.0),
    (NUMBER, "3.141592653589793", 3.141592653589793), (NUMBER, "123456789.123456789", 123456789.123456789),
    (BOOLEAN, "true", True), (BOOLEAN, "false", False), (BOOLEAN, "True", True), (BOOLEAN, "False", False),
    ({"type": "object"}, '{"a": [1, null]}', {"a": [1, None]}), ({"type": "object"}, " {} ", {}),
    (array(INTEGER), "[1, 2]", [1, 2]), (array(INTEGER), "5", [5]), (array(STRING), "a,b", ["a,b"]),
    (array(STRING), "", [""]), (array(STRING), '["a"]', ["a"]), (array(NUMBER), "1.5", [1.5]), (array({}), "x", ["x"]),
    (array(BOOLEAN), "true", [True]),
    (union(STRING, NUMBER), "1", 1), (union(STRING, NUMBER), "1.5", 1.5), (union(STRING, NUMBER), "hello", "hello"),
    (union(STRING, INTEGER), "1.5", "1.5"), (union(INTEGER, STRING), "1", 1), (union(STRING, BOOLEAN), "true", True),
    (union(STRING, BOOLEAN), "True", "True"), (union(STRING, {"type": "integer", "maximum": 5}), "7", "7"),
    (union({"type": "object"}, STRING), '{"a":1}', {"a": 1}), (union({"type": "object"}, STRING), "{broken", "{broken"),
    (union(array(INTEGER), STRING), "x", "x"), (union(array(INTEGER), STRING), "[1]", [1]),
    (union(array(STRING), STRING), "x", ["x"]),
    (union(STRING, {"type": "null"}), "x", "x"), ({"type": ["integer", "null"]}, "4", 4),
    ({"$ref": "#/components/schemas/size"}, "small", "small"),
    ({"allOf": [{"$ref": "#/components/schemas/size"}], "default": "small"}, "large", "large"),
    ({"allOf": [{"$ref": "#/components/schemas/steps"}]}, "2", 2), ({"enum": [1, "a"]}, "1", 1),
    ({"enum": [1, "a"]}, "a", "a"),
    ({}, "7", "7"), ({}, "[7]", [7]), ({"title": "Any"}, '{"a":1}', {"a": 1}),
    (FILE, "https://x.org/a.png", "https://x.org/a.png"), (FILE, "data:,x", "data:,x"), (FILE, "gs://b/o", "gs://b/o"),
    (SECRET, "12", "12"), ({"type": "integer", "nullable": True}, "1", 1),
], ids=str)
def test_a_value_by_its_type(shelf: Shelf, fragment: Any, text: str, value: Any) -> None:
    got = named(shelf, schema_of(x=fragment), f"x={text}")["x"]
    assert got == value and type(got) is type(value)


def test_repeats_make_a_list(shelf: Shelf) -> None:
    schema = schema_of(n=array(INTEGER), s=array(STRING), f=array(FILE), u=union(array(INTEGER), INTEGER))
    assert named(shelf, schema, "n=1", "s=[1]", "n=2", "s=x", "f=@a.png", "f=https://x/y", "u=1", "u=2") == {
        "n": [1, 2], "s": ["[1]", "x"], "f": [PNG, "https://x/y"], "u": [1, 2]}


def test_repeats_where_no_list_is_wanted(shelf: Shelf) -> None:
    assert fault(shelf, schema_of(n=INTEGER), "n=1", "n=2") == 'invalid input "n": expected integer, got array'


def test_without_a_schema_everything_passes(shelf: Shelf) -> None:
    assert named(shelf, None, "a=1", "b=@a.png", "c=x", "c=y", "d=\\@x") == {
        "a": "1", "b": PNG, "c": ["x", "y"], "d": "@x"}


@settings(max_examples=200)
@given(st.integers())
def test_every_integer_is_exact(number: int) -> None:
    assert cog.coerce_text(str(number), INTEGER) == number


@settings(max_examples=200)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_double_is_exact(number: float) -> None:
    assert cog.coerce_text(repr(number), NUMBER) == number


FRAGMENTS = st.recursive(
    st.sampled_from([STRING, INTEGER, NUMBER, BOOLEAN, FILE, SECRET, {}, {"type": "object"}, {"enum": [1, "x"]}]),
    lambda inner: inner.map(array) | st.lists(inner, min_size=1, max_size=3).map(lambda some: union(*some)),
    max_leaves=5)


@settings(max_examples=300)
@given(st.text(max_size=20) | st.sampled_from(["1e999", "nan", "inf", "1_0", "[", "{}", "[1,", "\u0661", "9" * 5000]),
       FRAGMENTS)
def test_any_text_for_any_type_is_sendable_json(text: str, fragment: Any) -> None:
    assert json.dumps(cog.coerce_text(text, fragment), allow_nan=False)


# Files


def test_at_is_a_file_where_the_schema_says_so(shelf: Shelf) -> None:
    schema = schema_of(f=FILE, fs=array(FILE), o={"allOf": [FILE], "nullable": True}, u=union(FILE, {"type": "null"}))
    assert named(shelf, schema, "f=@a.png", "fs=@b.JPG", "o=@~/a.png", "u=@./a.png") == {
        "f": PNG, "fs": [JPG], "o": PNG, "u": PNG}
    assert named(shelf, schema, 'fs=["@a.png", "https://x/y"]') == {"fs": [PNG, "https://x/y"]}


def test_at_is_text_elsewhere(shelf: Shelf) -> None:
    schema = schema_of(s=STRING, n=INTEGER, o={"type": "object"}, l=array(STRING), k=SECRET, i=array(INTEGER))
    shelf.put("list.json", b'["x"]')
    assert named(shelf, schema, "s=@t.txt", "n=@n.txt", "o=@o.json", "l=@list.json", "k=@n.txt", "i=@n.txt") == {
        "s": "täxt\n", "n": 7, "o": {"a": [1, 2]}, "l": ["x"], "k": "7\n", "i": [7]}
    assert named(shelf, schema, "s=@a.png")["s"] == "data:image/png;base64," + base64.b64encode(b"\x89PNG").decode()


def test_stdin_is_a_file(shelf: Shelf) -> None:
    assert named(shelf, schema_of(f=FILE), "f=@-") == {"f": ("stdin", "application/octet-stream", b"from stdin")}


def test_stdin_is_text(shelf: Shelf) -> None:
    assert named(shelf, schema_of(s=STRING), "s=@-") == {"s": "from stdin"}


def test_a_spooled_file_opens_again_and_has_no_name(shelf: Shelf) -> None:
    file = shelf.read.file("-")
    with file.open() as one, file.open() as two:
        assert (one.read(4), two.read(), one.read()) == (b"from", b"from stdin", b" stdin")
    assert file.path == "" and file.size == 10


def test_a_pipe_is_a_file(shelf: Shelf) -> None:
    end, other = os.pipe()
    os.write(other, b"piped")
    os.close(other)
    assert plain(shelf.read.file(f"/dev/fd/{end}")) == (str(end), "application/octet-stream", b"piped")
    os.close(end)


def test_an_absolute_path(shelf: Shelf) -> None:
    file = shelf.read.file(str(shelf.folder / "a.png"))
    assert plain(file) == PNG and file.path == str(shelf.folder / "a.png")


@pytest.mark.parametrize(("path", "said"), [
    ("x.jpg", "open x.jpg: no such file or directory"), (".", "open .: is a directory"), ("", "open : is a directory"),
    ("a.png/b", "open a.png/b: not a directory"), ("x\0y", "open x\0y: embedded null"),
    ("n" * 300, f"open {'n' * 300}: file name too long"),
])
@pytest.mark.parametrize("fragment", [FILE, STRING, {}])
def test_a_file_that_cannot_be_read(shelf: Shelf, path: str, said: str, fragment: Any) -> None:
    with pytest.raises(cog.InputError) as caught:
        named(shelf, schema_of(image=fragment), f"image=@{path}")
    assert str(caught.value).startswith(f'input "image": {said}')
    assert "\\@" in caught.value.hint


def test_a_file_that_may_not_be_read(shelf: Shelf) -> None:
    os.chmod(shelf.folder / "a.png", 0)
    if os.access(shelf.folder / "a.png", os.R_OK):
        pytest.skip("this user reads everything")
    assert fault(shelf, schema_of(f=FILE), "f=@a.png") == 'input "f": open a.png: permission denied'


def test_text_has_a_limit(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cog, "TEXT_LIMIT", 4)
    assert "too much for text" in fault(shelf, schema_of(s=STRING), "s=@t.txt")
    assert named(shelf, schema_of(f=FILE), "f=@b.JPG") == {"f": JPG}


def test_no_file_is_read_for_a_wrong_name(shelf: Shelf) -> None:
    class NoReader:
        def file(self, path: str) -> Any:
            raise AssertionError(path)
        text = file

    schema = schema_of(("prompt",), prompt=STRING, image=FILE, n=INTEGER)
    for parse, argument in ((cog.parse_named_inputs, [("nope", "@gone"), ("image", "@gone"), ("n", "@gone")]),
                            (cog.parse_json_inputs, '{"nope": "@gone", "image": "@gone", "n": "@gone"}')):
        with pytest.raises(cog.InputError) as caught:
            parse(argument, schema, NoReader())  # type: ignore[operator]
        assert str(caught.value) == (
            'input validation failed:\n- unknown input "nope"; valid inputs are: image, n, prompt\n'
            '- missing required input "prompt"')


# Faults, in the field's words


@pytest.mark.parametrize(("fragment", "text", "said"), [
    (INTEGER, "x", 'invalid input "x": expected integer, got string'),
    (INTEGER, "1.5", 'invalid input "x": expected integer, got string'),
    (INTEGER, "", 'invalid input "x": expected integer, got string'),
    (NUMBER, "nan", 'invalid input "x": expected number, got string'),
    (NUMBER, "1e999", 'invalid input "x": expected number, got string'),
    (BOOLEAN, "yes", 'invalid input "x": expected boolean, got string'),
    ({"type": "object"}, "{", 'invalid input "x": expected object, got string'),
    ({"type": "object"}, "[1]", 'invalid input "x": expected object, got string'),
    (array(INTEGER), '["a"]', 'invalid input "x.0": expected integer, got string'),
    (array(INTEGER), "a", 'invalid input "x.0": expected integer, got string'),
    ({"$ref": "#/components/schemas/size"}, "tiny", 'invalid input "x": must be one of: small, medium, large'),
    ({"allOf": [{"$ref": "#/components/schemas/steps"}]}, "3", 'invalid input "x": must be one of: 1, 2'),
    ({"type": "integer", "minimum": 1.0}, "0", 'invalid input "x": number must be at least 1'),
    ({"type": "integer", "maximum": 10}, "11", 'invalid input "x": number must be at most 10'),
    ({"type": "number", "maximum": 0.5}, "0.6", 'invalid input "x": number must be at most 0.5'),
    ({"type": "string", "maxLength": 5}, "toolong", 'invalid input "x": maximum string length is 5'),
    ({"type": "string", "minLength": 2}, "é", 'invalid input "x": minimum string length is 2'),
    ({"type": "string", "pattern": "^[a-z]+$"}, "BAD",
     'invalid input "x": string doesn\'t match the regular expression "^[a-z]+$"'),
    (union(INTEGER, BOOLEAN), "x", 'invalid input "x": doesn\'t match any schema from "anyOf"'),
    (FILE, "photo.jpg", 'invalid input "x": "photo.jpg" is not a URL; a file is given as @PATH'),
    (FILE, "", 'invalid input "x": "" is not a URL; a file is given as @PATH'),
    (STRING, "a\udcff", 'invalid input "x": its text is not UTF-8'),
], ids=repr)
def test_a_fault_in_its_words(shelf: Shelf, fragment: Any, text: str, said: str) -> None:
    assert fault(shelf, schema_of(x=fragment), f"x={text}") == said


@pytest.mark.parametrize("fragment", [
    {"type": "string", "pattern": "("}, {"type": "string", "pattern": 5}, {"type": "integer", "minimum": "1"},
    {"type": "string", "maxLength": "x"}, {"enum": "x"}, {"type": 5}, 5, None, [], True, {"anyOf": 3}, {"allOf": [3]},
    {"$ref": 4}, {"type": "string", "properties": 4}, {"items": 7}, {"anyOf": []},
    {"type": "whatever"},
], ids=str)
def test_a_schema_that_makes_no_sense_refuses_nothing(shelf: Shelf, fragment: Any) -> None:
    schema = schema_of(x=fragment)
    cog.check_inputs({"x": "text"} if fragment not in ({"type": "integer", "minimum": "1"},) else {"x": 0}, schema)
    assert named(shelf, schema, "x=1")


def test_a_name_that_nobody_knows(shelf: Shelf) -> None:
    schema = schema_of(prompt=STRING, count=INTEGER)
    with pytest.raises(cog.InputError, match='^unknown input "promt"; valid inputs are: count, prompt$') as caught:
        named(shelf, schema, "promt=x")
    assert caught.value.hint == 'did you mean "prompt" for "promt"?'
    assert fault(shelf, schema, "a=1", "b=1") == 'unknown inputs "a", "b"; valid inputs are: count, prompt'
    assert fault(shelf, schema_of(), "a=1") == 'unknown input "a"; model does not accept inputs'


def test_what_is_missing(shelf: Shelf) -> None:
    schema = schema_of(("prompt", "n", "ghost"), prompt=STRING, n=INTEGER)
    assert fault(shelf, schema, "n=1") == 'missing required input "prompt"'
    nested = schema_of(opts={"type": "object", "properties": {"scale": INTEGER}, "required": ["scale"]})
    assert fault(shelf, nested, "opts={}") == 'missing required input "opts.scale"'
    assert fault(shelf, nested, 'opts={"scale": "x"}') == 'invalid input "opts.scale": expected integer, got string'


def test_all_faults_at_once(shelf: Shelf) -> None:
    schema = schema_of(("prompt",), prompt=STRING, image=FILE, n={"type": "integer", "minimum": 1}, f=NUMBER)
    assert fault(shelf, schema, "image=@gone", "n=0", "f=x") == (
        'input validation failed:\n- input "image": open gone: no such file or directory\n'
        '- missing required input "prompt"\n- invalid input "n": number must be at least 1\n'
        '- invalid input "f": expected number, got string')


def test_null_is_refused_where_the_runtime_refuses_it(shelf: Shelf) -> None:
    optional = {"type": "string", "nullable": True, "default": None}
    said = 'invalid input "note": must not be null (omit the input to use its default)'
    for fragment in (STRING, optional, union(STRING, {"type": "null"}), {"$ref": "#/components/schemas/size"}):
        with pytest.raises(cog.InputError) as caught:
            from_json(shelf, schema_of(note=fragment), '{"note": null}')
        assert str(caught.value) == said
        assert from_json(shelf, schema_of(note=fragment, old=True), '{"note": null}') == {"note": None}
    assert from_json(shelf, schema_of(note={}), '{"note": null}') == {"note": None}
    assert from_json(shelf, schema_of(note={"type": "object"}), '{"note": {"a": null}}') == {"note": {"a": None}}


def test_numbers_of_another_kind(shelf: Shelf) -> None:
    schema = schema_of(n=INTEGER, f=NUMBER, b=BOOLEAN, c={"enum": [1]},
                       e={"allOf": [{"$ref": "#/components/schemas/steps"}]})
    assert from_json(shelf, schema, '{"n": 3.0, "f": 3}') == {"n": 3.0, "f": 3}
    for text, said in (('{"n": 1.5}', '"n": expected integer, got number'), ('{"n": true}', "integer, got boolean"),
                       ('{"f": "1"}', "number, got string"), ('{"b": 1}', "boolean, got number"),
                       ('{"c": true}', "must be one of: 1"),
                       ('{"e": true}', "expected integer, got boolean"), ('{"n": []}', "integer, got array"),
                       ('{"n": {}}', "integer, got object")):
        with pytest.raises(cog.InputError, match=said):
            from_json(shelf, schema, text)


def test_a_secret_is_never_shown(shelf: Shelf) -> None:
    schema = schema_of(key={**SECRET, "minLength": 20, "pattern": "^r8_"}, keys=array(SECRET), image=FILE)
    assert "hunter2" not in fault(shelf, schema, "key=hunter2", "keys=hunter2", "image=x")
    values = cog.parse_named_inputs([("key", "hunter2"), ("keys", "hunter2"), ("image", "@a.png")], schema, shelf.read)
    assert cog.describe_inputs(values, schema) == {
        "key": "***", "keys": "***", "image": "<a.png, image/png, 4 bytes>"}
    assert cog.describe_inputs({"a": 1}, None) == {"a": 1}


def test_a_file_without_its_at_gets_a_hint(shelf: Shelf) -> None:
    with pytest.raises(cog.InputError) as caught:
        named(shelf, schema_of(images=array(FILE)), "images=photo.jpg")
    assert caught.value.hint == "-i images=@photo.jpg"


# --json


@pytest.mark.parametrize("text", ['{"s": "x", "n": 5}', "@in.json", "@~/in.json", "-", "@-"])
def test_json_from_everywhere(tmp_path: Path, text: str) -> None:
    shelf = Shelf(tmp_path, b'{"s": "x", "n": 5}')
    shelf.put("in.json", b'\xef\xbb\xbf{"s": "x", "n": 5}')
    assert from_json(shelf, schema_of(s=STRING, n=INTEGER), text) == {"s": "x", "n": 5}


def test_json_files_inside(shelf: Shelf) -> None:
    group = {"type": "object", "properties": {"f": FILE, "s": STRING}}
    schema = schema_of(f=FILE, s=STRING, fs=array(FILE), g=group, gs=array(group), o={"type": "object"},
                       m={"type": "object", "additionalProperties": FILE}, ss=array(STRING))
    text = json.dumps({"f": "@a.png", "s": "@t.txt", "fs": ["@a.png", "\\@x", "https://x/y"],
                       "g": {"f": "@b.JPG", "s": "@literal"}, "gs": [{"f": "@a.png"}], "o": {"x": "@literal"},
                       "m": {"k": "@a.png"}, "ss": ["@literal"]}).replace('"\\\\@x", ', "")
    assert from_json(shelf, schema, text) == {
        "f": PNG, "s": "täxt\n", "fs": [PNG, "https://x/y"], "g": {"f": JPG, "s": "@literal"}, "gs": [{"f": PNG}],
        "o": {"x": "@literal"}, "m": {"k": PNG}, "ss": ["@literal"]}
    assert from_json(shelf, schema, '{"s": "\\\\@x"}') == {"s": "@x"}
    assert from_json(shelf, None, '{"f": "@a.png", "l": ["@a.png"]}') == {"f": PNG, "l": ["@a.png"]}


def test_json_a_missing_file_inside(shelf: Shelf) -> None:
    group = {"type": "object", "properties": {"f": FILE, "l": array(FILE)}}
    schema = schema_of(("g",), fs=array(FILE), g=group)
    with pytest.raises(cog.InputError) as caught:
        from_json(shelf, schema, '{"fs": ["@a.png", "@gone.png"], "g": {"f": "@gone.jpg", "l": ["@gone"]}}')
    assert str(caught.value).splitlines()[1:] == [
        f'- input "{name}": open {path}: no such file or directory'
        for name, path in (("fs.1", "gone.png"), ("g.f", "gone.jpg"), ("g.l.0", "gone"))]
    with pytest.raises(cog.InputError, match='^invalid input "g.f": "a.png" is not a URL; ') as caught:
        from_json(shelf, schema, '{"g": {"f": "a.png"}}')
    assert caught.value.hint == ""


@pytest.mark.parametrize(("text", "said"), [
    ("", "Failed to parse JSON: "), ("{", "Failed to parse JSON: "), ("x", "Failed to parse JSON: "),
    ("[1]", "Failed to parse JSON: expected object, got array"),
    ("null", "Failed to parse JSON: expected object, got null"),
    ('{"a": NaN}', "Failed to parse JSON: NaN is not JSON"), ('{"a": 1e999}', "Failed to parse JSON: the number 1e999"),
    ("[" * 100000, "Failed to parse JSON: "), ('{"a": ' * 5000, "Failed to parse JSON: "),
    ("@gone.json", 'Failed to read JSON from file "gone.json": open gone.json: no such file or directory'),
    ("@.", 'Failed to read JSON from file ".": open .: is a directory'), ("@a.png", "Failed to parse JSON: "),
    ('{"a": ' + "9" * 5000 + "}", "Failed to parse JSON: "),
], ids=lambda value: str(value)[:30])
def test_json_that_cannot_be_used(shelf: Shelf, text: str, said: str) -> None:
    with pytest.raises(cog.InputError) as caught:
        from_json(shelf, None, text)
    assert str(caught.value).startswith(said)


def test_json_numbers_are_exact(shelf: Shelf) -> None:
    assert from_json(shelf, None, '{"n": 18446744073709551617, "f": 0.1}') == {"n": 2**64 + 1, "f": 0.1}


@pytest.mark.parametrize("depth", [150, 300, 900, 50000])
def test_deep_values_are_no_crash(shelf: Shelf, depth: int) -> None:
    text = '{"a": ' + "[" * depth + "]" * depth + "}"
    schema = schema_of(a={})
    if depth < cog.DEPTH_LIMIT:
        assert from_json(shelf, schema, text)
    else:
        with pytest.raises(cog.InputError, match="Failed to parse JSON: nested too deeply"):
            from_json(shelf, schema, text)


# Schemas of every runtime


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("openapi-*.json")), ids=lambda path: path.stem)
def test_every_recorded_runtime(shelf: Shelf, path: Path) -> None:
    schema = cog.input_schema(json.loads(path.read_text()))
    assert schema is not None
    assert list(schema.properties)[:5] == ["text", "count", "mode", "scale", "flag"]
    assert list(schema.properties)[5:] in (["image", "tags"], ["image"], [])
    assert schema.required == ("text",)
    assert schema.strict_null == ("0.23" in path.name)
    assert schema.properties["mode"]["enum"] == ["fast", "slow"]
    assert named(shelf, schema, "text=7", "count=3", "mode=slow", "scale=1", "flag=true") == {
        "text": "7", "count": 3, "mode": "slow", "scale": 1, "flag": True}
    assert fault(shelf, schema, "count=11", "mode=x") == (
        'input validation failed:\n- missing required input "text"\n'
        '- invalid input "count": number must be at most 10\n'
        '- invalid input "mode": must be one of: fast, slow')
    if "image" in schema.properties:
        assert named(shelf, schema, "text=x", "image=@a.png")["image"] == PNG


def test_training_has_its_own_inputs() -> None:
    document = {"components": {"schemas": {"Input": {"properties": {"a": STRING}},
                                           "TrainingInput": {"properties": {"b": STRING}}}}}
    assert list(cog.input_schema(document, training=True).properties) == ["b"]  # type: ignore[union-attr]
    del document["components"]["schemas"]["TrainingInput"]
    assert list(cog.input_schema(document, training=True).properties) == ["a"]  # type: ignore[union-attr]


@pytest.mark.parametrize("document", [
    None, [], "x", {}, {"components": None}, {"components": {"schemas": []}}, {"components": {"schemas": {}}},
    {"components": {"schemas": {"Input": []}}}, {"components": {"schemas": {"Input": {"type": "object"}}}},
    {"components": {"schemas": {"Input": {"properties": []}}}},
])
def test_no_usable_inputs(document: Any) -> None:
    assert cog.input_schema(document) is None


def test_a_constant_is_the_only_choice() -> None:
    schema = schema_of(mode={"const": "fast", "type": "string"})
    cog.check_inputs({"mode": "fast"}, schema)
    with pytest.raises(cog.InputError, match="must be one of: fast"):
        cog.check_inputs({"mode": "slow"}, schema)


def test_a_schema_that_refers_to_itself() -> None:
    loop = {"anyOf": [{"$ref": "#/components/schemas/A"}, {"$ref": "#/components/schemas/A"}]}
    document = {"components": {"schemas": {"Input": {"properties": {"x": loop}}, "A": loop}}}
    schema = cog.input_schema(document)
    assert schema is not None
    cog.check_inputs({"x": 1}, schema)


@pytest.mark.parametrize("fragment", [
    union(STRING, {"type": "null"}), {"type": ["string", "null"]}, {"oneOf": [STRING, {"type": "null"}]},
    {"allOf": [STRING], "nullable": True},
])
def test_every_form_of_null(fragment: Any) -> None:
    assert schema_of(x=fragment).properties["x"] == {"type": "string", "nullable": True}


# Sending


def test_rendering_and_data_urls(shelf: Shelf) -> None:
    shelf.put("big.bin", os.urandom(200001))
    file = shelf.read.file("big.bin")
    pieces = list(cog.data_url_chunks(file))
    head, _, data = b"".join(pieces).partition(b",")
    assert head == b"data:application/octet-stream;base64"
    assert base64.b64decode(data) == (shelf.folder / "big.bin").read_bytes()
    assert max(map(len, pieces)) < 1 << 17
    assert cog.render_inputs({"a": [file, 1], "b": {"c": file}, "d": "x"}, lambda file: "<" + file.name + ">") == {
        "a": ["<big.bin>", 1], "b": {"c": "<big.bin>"}, "d": "x"}


def test_a_file_that_is_gone_when_it_is_sent(shelf: Shelf) -> None:
    file = shelf.read.file("a.png")
    (shelf.folder / "a.png").unlink()
    with pytest.raises(cog.InputError, match="open a.png: no such file"):
        list(cog.data_url_chunks(file))


@pytest.mark.parametrize(("name", "mime"), [
    ("x.png", "image/png"), ("X.JPG", "image/jpeg"), ("a.jpeg", "image/jpeg"), ("a.tar.gz", "application/gzip"),
    ("a.svg", "image/svg+xml"), ("a.md", "text/markdown"), ("a.ts", "video/mp2t"), ("a.3gp", "video/3gpp"),
    ("a", "application/octet-stream"), (".png", "application/octet-stream"),
    ("a.safetensors", "application/octet-stream"),
    ("a.glb", "model/gltf-binary"), ("a.mov", "video/quicktime"), ("a.svgz", "application/octet-stream"),
    ("a.docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
    ("a.", "application/octet-stream"),
])
def test_mime_types(name: str, mime: str) -> None:
    assert cog.mime_of(name) == mime


def test_mime_types_both_ways() -> None:
    for extension, mime in cog.list_mime_types():
        assert cog.mime_of("x" + extension.upper()) == mime
        assert cog.mime_of("x" + cog.extension_of(mime.upper())) == mime
    assert [cog.extension_of(mime) for mime in ("image/jpeg", "text/html", "audio/midi", "video/quicktime", "")] == [
        ".jpg", ".html", ".mid", ".mov", ""]


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="no /proc here")
def test_a_file_that_claims_to_be_empty_is_read(tmp_path):
    reader = cog.Reader(io.BytesIO(), str(tmp_path), "/")
    try:
        file = reader.file("/proc/self/status")
        with file.open() as source:
            content = source.read()
        assert content.startswith(b"Name:") and file.size == len(content)
    finally:
        reader.close()
