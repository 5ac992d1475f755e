"""What builders answered to the same Dockerfiles, recorded, and what a person gets to read of it.

golden/build/NAME.jsonl is the answer as it came, NAME.txt the plain lines, the last region of a terminal of 70 columns
and the log of the step that failed. `--update-golden` writes the latter anew. Each line of text takes 0.1 s.
"""
from __future__ import annotations

import json
from pathlib import Path

import pytest

from cogpredict import BuildError, BuildProgress, BuildWarning, ImageId, TraceParser

FOLDER = Path(__file__).resolve().parent / "build"
CASES = sorted(FOLDER.glob("*.jsonl"))


def render(path: Path) -> str:
    now = 0.0
    parser, progress = TraceParser(lambda: now), BuildProgress(0.0)
    lines = []
    for line in path.read_text().splitlines():
        now += 0.1
        for event in parser.feed(json.loads(line)):
            lines += progress.add(event, now)
            if isinstance(event, (ImageId, BuildError, BuildWarning)):
                lines.append(f"{type(event).__name__}: {event[0]}")
    return "\n".join([*lines, "", *progress.region(70, now), "", *progress.failure(), ""])


@pytest.mark.parametrize("path", CASES, ids=[path.stem for path in CASES])
def test_a_recorded_build_reads_so(path: Path, request: pytest.FixtureRequest) -> None:
    found, expected = render(path), path.with_suffix(".txt")
    if request.config.getoption("--update-golden", default=False):
        expected.write_text(found)
    assert found == expected.read_text()


def test_there_is_a_pair_for_each_kind_of_builder() -> None:
    assert {path.stem.partition("-")[0] for path in CASES} == {"buildkit", "classic", "podman"}
    assert {path.stem for path in FOLDER.iterdir()} == {path.stem for path in CASES}
