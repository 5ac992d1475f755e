#!/usr/bin/env python3
"""Makes Cog model images for tests: tests/models/NAME with a real runtime from the package index.

    python3 tests/images/make_image.py NAME [VERSION]... [--openapi FILE]

gives cog-test/NAME:VERSION in the engine of COG_TEST_ENGINE, else DOCKER_HOST, else /var/run/docker.sock; NAME may be
`all`. An image is made anew only when the model, the runtime or this recipe changed. The schema in its label is what
the runtime itself says; runtimes that make none of their own (from 0.17 on) get the one of the same model on 0.16.12.
Needs python:3.11-slim in the engine: base_image.py makes it.
"""
from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import re
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from engines.api import Engine, EngineFailed, say  # noqa: E402

MODELS = HERE.parent / "models"
VERSIONS = ("0.9.26", "0.16.12", "0.23.1")
LAST_WITH_SCHEMA = "0.16.12"
# Names that a runtime pins too loosely for today's index.
EXTRA = {"0.8.6": ["pydantic<2"], "0.11.6": ["pydantic<2"], "0.17.2": ["coglet==0.17.2"], "0.19.3": ["coglet==0.19.3"]}
CARRIED = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST")
DOCKERFILE = """\
FROM {base}
{arguments}
RUN python -m pip install --no-cache-dir --disable-pip-version-check {requirements}
ENV COG_PREDICT_TYPE_STUB={stub} PYTHONUNBUFFERED=1
WORKDIR /src
EXPOSE 5000
CMD ["python", "-m", "cog.server.http"]
COPY src /src
"""
ASK_SCHEMA = """\
python -m cog.server.http >/tmp/log 2>&1 &
python - <<'END'
import time, urllib.error, urllib.request
for _ in range(600):
    try:
        print(urllib.request.urlopen("http://127.0.0.1:5000/openapi.json").read().decode())
        break
    except (OSError, urllib.error.URLError):
        time.sleep(0.1)
else:
    print(open("/tmp/log").read())
END
"""


def carry_environment() -> dict[str, str]:
    """Proxy and index settings of this machine that the build needs too."""
    names = [*CARRIED, *(name.lower() for name in CARRIED[:3])]
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def release(version: str) -> tuple[int, ...]:
    """A version's first two numbers."""
    return tuple(map(int, version.split(".")[:2]))


def read_model(name: str, version: str) -> dict[str, bytes]:
    """The files of a model under the paths that they get in /src.

    Runtimes before 0.14 know no Optional, later ones insist on it for what may be absent: the former get it left out.
    """
    folder = MODELS / name
    if not (folder / "cog.yaml").is_file():
        sys.exit(f"make_image.py: no model {name}; there are {', '.join(list_models())}")
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    if release(version) < (0, 14):
        found["predict.py"] = re.sub(rb"Optional\[(\w+)\]", rb"\1", found["predict.py"])
    return found


def list_models() -> list[str]:
    """Names of the models that need nothing but a runtime; the others are built by the program itself."""
    needs = re.compile(r"^run:|^  (?:run|gpu|system_packages|python_packages|python_requirements):", re.M)
    return sorted(path.parent.name for path in MODELS.glob("*/cog.yaml") if not needs.search(path.read_text()))


def read_config(files: dict[str, bytes]) -> dict[str, Any]:
    """cog.yaml as the label shows it: of the models here every line is `key: value`, nested at most once."""
    config: dict[str, Any] = {}
    for line in files["cog.yaml"].decode().splitlines():
        key, _, value = line.strip().partition(":")
        value = value.strip().strip('"')
        if line.startswith(" "):
            config[next(reversed(config))][key] = {"true": True, "false": False}.get(value, value)
        else:
            config[key] = value or {}
    return config


def tar(files: dict[str, bytes]) -> bytes:
    """A tar with fixed times, so that the engine's cache knows it again."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o644
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def render_labels(labels: dict[str, str]) -> bytes:
    """Lines of a Dockerfile that set labels. In the query of a build Podman would take a $ for a variable."""
    quoted = ((name, re.sub(r'([\\"$])', r"\\\1", value)) for name, value in labels.items())
    return "".join(f'LABEL {name}="{value}"\n' for name, value in quoted).encode()


def build(engine: Engine, tag: str, files: dict[str, bytes], labels: dict[str, str]) -> None:
    """One build over the plain API; its log is shown only when it fails."""
    files = {**files, "Dockerfile": files["Dockerfile"] + render_labels(labels)}
    query = {"t": tag, "buildargs": json.dumps(carry_environment()), "rm": "1", "forcerm": "1"}
    log: list[str] = []
    before = engine.image(tag)
    try:
        for message in engine.stream("POST", "/build", query, tar(files)):
            log.append(message.get("stream", ""))
    except EngineFailed as failure:
        sys.exit(f"make_image.py: {tag}: {failure}\n" + "".join(log)[-3000:])
    if before and not {*((engine.image(before["Id"]) or {}).get("RepoTags") or ())} - {"<none>:<none>"}:
        try:
            engine.call("DELETE", f"/images/{before['Id']}")
        except EngineFailed:
            pass  # it is gone, or a container uses it


def ask_schema(engine: Engine, image: str) -> str:
    """What the runtime in an image answers to /openapi.json, compact."""
    body = {"Image": image, "Cmd": ["sh", "-c", ASK_SCHEMA], "Env": ["BADSETUP=ok"], "Tty": True,
            "Labels": {"cog.test": "images"}, "HostConfig": {"NetworkMode": "none"}}
    said = engine.run(body)
    if not isinstance(said, dict) or "Input" not in said["components"]["schemas"]:
        sys.exit(f"make_image.py: {image} has no schema:\n{said}")
    return json.dumps(said, separators=(",", ":"))


def make_image(engine: Engine, name: str, version: str, openapi: str = "") -> str:
    """The tag of a model's image, made if need be."""
    files, tag, base = read_model(name, version), f"cog-test/{name}:{version}", "python:3.11-slim"
    recipe = json.dumps([DOCKERFILE, ASK_SCHEMA, EXTRA, version, openapi, (engine.image(base) or {}).get("Id")])
    digest = hashlib.sha256(recipe.encode() + tar(files)).hexdigest()
    known = engine.image(tag)
    if known and (known["Config"].get("Labels") or {}).get("cog.test.hash") == digest:
        return tag
    began = time.monotonic()
    if not openapi and release(version) >= (0, 17):
        older = engine.image(make_image(engine, name, LAST_WITH_SCHEMA))
        openapi = older["Config"]["Labels"]["run.cog.openapi_schema"] if older else ""
    config = read_config(files)
    dockerfile = DOCKERFILE.format(
        base=base, arguments="\n".join(f"ARG {key}" for key in carry_environment()), stub=config["predict"],
        requirements=" ".join(f"'{line}'" for line in [f"cog=={version}", *EXTRA.get(version, [])]))
    if "train" in config:
        dockerfile += f"ENV COG_TRAIN_TYPE_STUB={config['train']}\n"
    context = {"Dockerfile": dockerfile.encode(), **{f"src/{path}": content for path, content in files.items()}}
    if not openapi:
        build(engine, tag, context, {"cog.test": "images"})
        openapi = ask_schema(engine, tag)
    context["src/.cog/openapi_schema.json"] = openapi.encode()
    build(engine, tag, context, {
        "run.cog.config": json.dumps(config, separators=(",", ":")), "run.cog.openapi_schema": openapi,
        "run.cog.version": version, "run.cog.has_init": "true", "cog.test": "images", "cog.test.hash": digest})
    say(f"{tag} made in {time.monotonic() - began:.0f} s")
    return tag


def main() -> None:
    parser = argparse.ArgumentParser(description="Make Cog model images for tests: cog-test/NAME:VERSION.")
    parser.add_argument("name", help="a folder of tests/models, or all")
    parser.add_argument("version", nargs="*", default=VERSIONS, help=f"of the runtime; default: {' '.join(VERSIONS)}")
    parser.add_argument("--openapi", type=Path, metavar="FILE", help="the schema for the label")
    options = parser.parse_args()
    engine = Engine()
    if engine.image("python:3.11-slim") is None:
        sys.exit("make_image.py: the engine has no python:3.11-slim; run: python3 tests/engines/base_image.py 3.11")
    openapi = options.openapi.read_text() if options.openapi else ""
    for name in list_models() if options.name == "all" else [options.name]:
        for version in options.version:
            make_image(engine, name, version, openapi)


if __name__ == "__main__":
    try:
        main()
    except (OSError, EngineFailed) as error:
        sys.exit(f"make_image.py: {error}")
