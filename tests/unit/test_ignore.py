"""The rules of .dockerignore keep what Docker keeps, and a walk looks only where something can be kept."""
from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import cogpredict
from cogpredict import IgnoreRules, UsageError, parse_ignore, walk_context

# Made by Docker's own code (tonistiigi/fsutil a72de9dcf763 on moby/patternmatcher 0.6.1): a tree, and what of it each
# .dockerignore keeps (x) or drops (.), in the tree's order; null where it refuses the file.
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "ignore.json").read_text())


def make_tree(root: Path, paths: list[str]) -> None:
    for path in paths:
        place = root / path
        if any(other.startswith(path + "/") for other in paths):
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()


def kept(root: Path, text: str) -> list[str]:
    return [member.path for member in walk_context(str(root), parse_ignore(text), ())]


def test_docker_keeps_the_same(tmp_path: Path) -> None:
    make_tree(tmp_path, GOLDEN["tree"])
    wrong = []
    for text, marks in GOLDEN["kept"]:
        try:
            found = set(kept(tmp_path, text))
        except UsageError:
            found = None
        expected = None if marks is None else {path for path, mark in zip(GOLDEN["tree"], marks) if mark == "x"}
        if found != expected:
            wrong.append((text, found, expected))
    assert len(GOLDEN["kept"]) > 600
    assert wrong == []


@pytest.mark.parametrize(("text", "line"), [
    ("a\n[", 2), ("!", 1), ("a\n\n[]a]", 3), ("a\\", 1), ("[b-a]", 1), ("[a-]", 1), ("[^", 1), ("x[a", 1), ("! ", 1),
])
def test_a_bad_line_is_named(text: str, line: int) -> None:
    with pytest.raises(UsageError, match=rf"^\.dockerignore:{line}: ") as caught:
        parse_ignore(text)
    assert caught.value.hint


@pytest.mark.parametrize(("text", "walked"), [
    ("a", {"", "b"}),
    ("a\n!b", {"", "b"}),
    ("*\n!a/b", {"", "a", "a/b"}),
    ("*\n!a/b/*", {"", "a", "a/b"}),
    ("*\n!a/x", {"", "a"}),
    ("*\n!*/b", {"", "a", "a/b", "b"}),
    ("*\n!**/x", {"", "a", "a/b", "b"}),
    ("*\n!a/**", {"", "a", "a/b"}),
    ("a/b\n!a", {"", "a", "b"}),
    ("**\n!b/[x]", {"", "b"}),
])
def test_only_folders_that_can_hold_something_are_opened(
    text: str, walked: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_tree(tmp_path, ["a/b/x", "a/x", "b/x", "x"])
    opened: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(cogpredict.os, "scandir", lambda path: opened.append(path) or scandir(path))
    kept(tmp_path, text)
    assert {os.path.relpath(path, tmp_path).strip(".") for path in opened} == walked


def test_an_ignored_folder_comes_before_what_an_exception_keeps_in_it(tmp_path: Path) -> None:
    make_tree(tmp_path, ["a/b/c", "a/b/d", "a/x", "e/f"])
    assert kept(tmp_path, "**\n!a/b/d") == ["a", "a/b", "a/b/d"]


def test_an_ignored_folder_need_not_be_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tree(tmp_path, ["secret/x", "a"])

    def refuse(path: str) -> object:
        if path.endswith("secret"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    scandir = os.scandir
    monkeypatch.setattr(cogpredict.os, "scandir", refuse)
    assert kept(tmp_path, "secret\n!**/keep") == ["a"]
    with pytest.raises(UsageError, match="secret cannot be read: Permission denied"):
        kept(tmp_path, "")


def decide_slowly(rules: IgnoreRules, path: str) -> bool:
    """Every parent asked in turn, nothing left out."""
    parents: tuple[bool, ...] = ()
    ignored = False
    parts = path.split("/")
    for depth in range(1, len(parts) + 1):
        ignored, parents = rules.judge("/".join(parts[:depth]), parents)
    return ignored


PATTERNS = st.lists(st.tuples(st.sampled_from(["", "!"]), st.lists(
    st.sampled_from(["a", "b", "*", "**", "?", "a*", "**b", "[ab]", "[^a]", "a**"]), min_size=1, max_size=3)),
    min_size=1, max_size=5)


@given(PATTERNS)
@example([("", ["a"]), ("!", ["[^a]"])])
def test_no_folder_is_left_out_in_which_something_is_kept(patterns: list[tuple[str, list[str]]]) -> None:
    rules = parse_ignore("\n".join(sign + "/".join(parts) for sign, parts in patterns))
    paths = ["a", "b", "a/a", "a/b", "b/a", "b/b", "a/a/a", "a/a/b", "a/b/a", "b/a/b", "b/b/b"]
    for path in paths:
        for above in (path[:at] for at, char in enumerate(path) if char == "/"):
            if decide_slowly(rules, above) and not decide_slowly(rules, path):
                assert rules.holds is not None
                assert rules.holds(above)


@given(st.text(alphabet="ab*?[]^-\\!/.# \n\r\t{}()|$+é\udcff"))
def test_no_text_raises_anything_but_its_own_error(text: str) -> None:
    try:
        parse_ignore(text).judge("a/b", ())
    except UsageError:
        pass
