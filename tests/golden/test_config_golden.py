"""A model's folder in, its completed config and its Dockerfile (or its faults) out.

Each folder of golden/config holds a cog.yaml with the files that it names, and `expected.json`: what was made of it;
in some a `settings.json` has what flags and the machine say of the build. golden/dockerfile has the Dockerfile of each
that loads. `--update-golden` writes both anew.
"""
from __future__ import annotations

import json
from pathlib import Path

import pytest

import cogpredict as cog

GOLDEN = Path(__file__).resolve().parent
CASES = sorted(path.parent for path in (GOLDEN / "config").glob("*/cog.yaml"))


def read_model(folder: Path) -> tuple[dict[str, object], str]:
    """What is made of a model's folder: a document to compare, and its Dockerfile."""

    def read(name: str) -> str:
        return (folder / name).read_text()

    try:
        text = (folder / "cog.yaml").read_text()
        config = cog.complete_config(cog.parse_config(text, "cog.yaml", read, str(folder)))
    except cog.ConfigError as error:
        return {"error": str(error).splitlines()}, ""
    given = folder / "settings.json"
    settings = cog.BuildSettings(**(json.loads(given.read_text()) if given.exists() else {}))
    document = {
        "config": cog.config_json(config), "requirements": list(config.requirements),
        "artifacts": list(config.artifacts), "torch": config.torch, "tensorflow": config.tensorflow,
        "constraints": cog.list_constraints(config), "warnings": list(config.warnings),
    }
    return {key: value for key, value in document.items() if value}, cog.render_dockerfile(config, settings)


@pytest.mark.parametrize("folder", CASES, ids=lambda folder: folder.name)
def test_a_model_is_read_as_recorded(folder: Path, request: pytest.FixtureRequest) -> None:
    document, dockerfile = read_model(folder)
    expected, recorded = folder / "expected.json", GOLDEN / "dockerfile" / f"{folder.name}.Dockerfile"
    if request.config.getoption("--update-golden", default=False):
        expected.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        recorded.unlink(missing_ok=True)
        if dockerfile:
            recorded.write_text(dockerfile)
    assert document == json.loads(expected.read_text())
    assert dockerfile == (recorded.read_text() if recorded.exists() else "")


def test_every_dockerfile_belongs_to_a_model() -> None:
    assert {path.stem for path in (GOLDEN / "dockerfile").glob("*")} <= {folder.name for folder in CASES}
