"""README.md says what there is: its tables are those of the program."""
from __future__ import annotations

import re
from pathlib import Path
from typing import Iterator

import pytest

import cogpredict

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
BEGIN, END = "<!-- flags -->\n", "<!-- end of flags -->\n"


def render_flags() -> str:
    """The table of flags, in the order of --help."""
    rows = ["| flag | means |", "|---|---|"]
    for flags, metavar, kind, about in cogpredict.FLAGS.values():
        names = ", ".join(f"`{flag}`" for flag in flags.split())
        value = "`" + "\\|".join(kind) + "`" if isinstance(kind, tuple) else f"`{metavar}`" if metavar else ""
        rows.append(f"| {names} {value}".rstrip() + f" | {about} |")
    return "\n".join([*rows, ""])


def section(title: str) -> str:
    """What stands under a heading."""
    return README.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def error_classes(base: type[cogpredict.CogError] = cogpredict.CogError) -> Iterator[type[cogpredict.CogError]]:
    """A class of errors and all that come from it."""
    yield base
    for child in base.__subclasses__():
        yield from error_classes(child)


def test_the_table_of_flags_is_that_of_the_program(request):
    text = README.read_text()
    before, _, rest = text.partition(BEGIN)
    table, _, after = rest.partition(END)
    if request.config.getoption("--update-golden") and table != render_flags():
        README.write_text(before + BEGIN + render_flags() + END + after)
        return
    assert table == render_flags(), "run: python3 tests tests/unit/test_readme.py --update-golden"


def test_every_exit_code_is_told():
    told = {int(code) for row in re.findall(r"(?m)^\| ([\d, ]+) \|", section("Exit codes")) for code in row.split(",")}
    assert {error.exit_code for error in error_classes()} | {0, 70, 130, 143} == told


def test_every_variable_that_is_told_is_read():
    source = (ROOT / "cogpredict.py").read_text()
    told = re.findall(r"`([A-Z][A-Z_]+)`", "".join(
        row.split("|")[1] for row in section("Environment variables").splitlines() if row.startswith("| `")))
    assert len(told) > 5
    assert [name for name in told if f'"{name}"' not in source] == []


@pytest.mark.parametrize("line", re.findall(r"(?m)^    (?:\$ )?(?:\./)?cog\.pyz (.*?)(?: #.*| \| .*)?$",
                                            README.read_text()))
def test_every_command_line_is_understood(line):
    import shlex

    assert cogpredict.parse_argv(shlex.split(line)).command in line


def test_every_file_that_is_named_exists():
    for name in re.findall(r"(?:tests/[\w/.]+|\w+\.py\b|\.ci/run|LICENSE)", README.read_text()):
        assert (ROOT / name).exists() or list((ROOT / "tests").rglob(Path(name).name)), name
