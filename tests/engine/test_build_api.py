"""Builds on a real engine: what arrives of a context, what a user sees, what secrets leave behind, what an end ends."""
from __future__ import annotations

import hashlib
import json
import os
import stat
import time
import uuid
from pathlib import Path
from typing import Any, Iterator

import pytest

import cogpredict
from cogpredict import BuildFailed, Console, Engine, build_image, parse_ignore, read_context

BASE = os.environ.get("COG_TEST_BASE_IMAGE", "python:3.11-slim")
LABELS = json.dumps({"cog.test": "context"})
LIST = """
import hashlib, json, os, stat
found = {}
for folder, folders, files in os.walk(b"/src"):
    for name in folders + files:
        path = os.path.join(folder, name)
        info = os.lstat(path)
        if stat.S_ISLNK(info.st_mode):
            what = os.readlink(path).hex()
        elif stat.S_ISREG(info.st_mode):
            what = hashlib.md5(open(path, "rb").read()).hexdigest()
        else:
            what = "folder"
        mode = 0 if stat.S_ISLNK(info.st_mode) else info.st_mode & 0o1777
        found[path[5:].hex()] = [what, mode, info.st_uid]
print("LISTING " + hashlib.md5(json.dumps(sorted(found.items())).encode()).hexdigest(), len(found))
"""


@pytest.fixture
def engine() -> Iterator[Engine]:
    address = cogpredict.parse_address(os.environ["DOCKER_HOST"])
    with cogpredict.connect_engine(address, Console({}), os.environ) as found:
        yield found


class Builder:
    """Builds with a label, and what came out of it, to be removed."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.images = engine, set[str]()

    def __call__(self, dockerfile: str, folder: Path | None = None, ignore: str = "", files: Any = None,
                 console: Console | None = None, query: Any = None, **options: Any) -> str:
        extra = {"Dockerfile": dockerfile.encode(), **(files or {})}
        context = options.pop("context", None) or read_context(str(folder), parse_ignore(ignore), extra_files=extra)
        image = build_image(self.engine, console or Console({}), context=context,
                            query={"labels": LABELS, "nocache": "1", **(query or {})}, **options)
        self.images.add(image)
        return image


@pytest.fixture
def build(engine: Engine) -> Iterator[Builder]:
    builder = Builder(engine)
    yield builder
    for image in builder.images:
        engine._read("DELETE", f"/images/{image}", {"force": "1"})


def list_folder(folder: Path) -> str:
    """What LIST prints, for a folder of ours; without the set-user bits, which not every builder keeps."""
    found = {}
    for place, folders, files in os.walk(os.fsencode(folder)):
        for name in folders + files:
            path = os.path.join(place, name)
            info = os.lstat(path)
            link, regular = stat.S_ISLNK(info.st_mode), stat.S_ISREG(info.st_mode)
            what = os.readlink(path).hex() if link else \
                hashlib.md5(Path(os.fsdecode(path)).read_bytes()).hexdigest() if regular else "folder"
            found[path[len(os.fsencode(folder)) + 1:].hex()] = [what, 0 if link else info.st_mode & 0o1777, 0]
    return f"{hashlib.md5(json.dumps(sorted(found.items())).encode()).hexdigest()} {len(found)}"


def test_a_context_arrives_as_it_is(build: Builder, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, mode in {
        "plain": 0o644, "tool": 0o755, "only me": 0o600, "deep/" + "x" * 120: 0o644, "d" * 150 + "/" + "f" * 120: 0o640,
        "grüße/名前.txt": 0o644, "sticky/x": 0o1777, "empty": 0o444, "suid": 0o4755,
    }.items():
        place = tmp_path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"" if name == "empty" else os.urandom(700))
        place.chmod(mode)
    (tmp_path / "link").symlink_to("grüße/名前.txt")
    (tmp_path / ("l" * 101)).symlink_to("t" * 300)
    (tmp_path / "void").mkdir()
    (tmp_path / "deep").chmod(0o750)
    Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"raw \xff\xfe"))).write_text("raw")
    (tmp_path / "big").write_bytes(os.urandom(1 << 20))
    expected = list_folder(tmp_path)
    dockerfile = f"FROM {BASE}\nCOPY . /src/\nRUN mv /src/list.py / && rm /src/Dockerfile && python /list.py"
    build(dockerfile, tmp_path, files={"list.py": LIST.encode()})
    assert f"LISTING {expected}" in capfd.readouterr().err


def test_rules_are_applied(build: Builder, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("keep", "drop.log", "sub/drop.log", "sub/keep.log", ".cog/secret"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    build(f"FROM {BASE}\nCOPY . /src/\nRUN cd /src; echo FOUND $(find . -type f | sort)", tmp_path,
          ignore="**/*.log\n!sub/keep.log", files={".cog/build/made": b""})
    assert "FOUND ./.cog/build/made ./Dockerfile ./keep ./sub/keep.log\n" in capfd.readouterr().err


def test_a_second_build_is_cached(build: Builder, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    dockerfile = f"FROM {BASE}\nRUN echo {uuid.uuid4().hex}\n"
    first = build(dockerfile, tmp_path, query={"nocache": "0"})
    capfd.readouterr()
    os.utime(tmp_path, (1, 1))
    assert build(dockerfile, tmp_path, query={"nocache": "0"}) == first
    assert " CACHED\n" in capfd.readouterr().err


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_step_that_fails_shows_its_log(
    version: str, build: Builder, tmp_path: Path, capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(BuildFailed, match="exit (status|code:)|returned a non-zero code") as caught:
        build(f"FROM {BASE}\nRUN seq 300; echo the reason >&2; exit 7", tmp_path, query={"version": version},
              quiet=True)
    shown = capfd.readouterr().err.splitlines()
    assert caught.value.exit_code == 4
    assert [line for line in shown if line.isdigit()] == [str(number) for number in range(1, 301)]
    assert "the reason" in shown


def test_a_secret_is_there_and_stays_nowhere(
    build: Builder, engine: Engine, tmp_path: Path, capfd: pytest.CaptureFixture[str],
) -> None:
    secret = os.urandom(150_000).hex().encode()
    digest = hashlib.sha256(secret).hexdigest()
    image = build(f"FROM {BASE}\nRUN --mount=type=secret,id=tok echo $(sha256sum < /run/secrets/tok)\n"
                  f"COPY . /src/\nRUN echo LEFT $(ls -A /run/secrets /src 2>/dev/null)\n# {uuid.uuid4().hex}",
                  tmp_path, secrets={"tok": secret})
    shown = capfd.readouterr().err
    assert f" {digest} -" in shown
    assert "podman-build-secret" not in shown.partition("LEFT")[2].splitlines()[0]
    inspected = json.dumps(engine.image_inspect(image))
    assert secret[:40].decode() not in inspected


def test_a_base_image_that_is_nowhere_has_a_hint(build: Builder, tmp_path: Path) -> None:
    with pytest.raises(BuildFailed) as caught:
        build("FROM registry.invalid/nothing:1", tmp_path, quiet=True)
    assert "--base-image" in caught.value.hint


def find_process(marker: str) -> bool:
    """Whether a process of this machine has the marker among its arguments."""
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and marker.encode() in Path(f"/proc/{name}/cmdline").read_bytes():
                return True
        except OSError:
            pass
    return False


def test_an_interrupt_ends_the_step(build: Builder, engine: Engine, tmp_path: Path) -> None:
    marker = f"cog-test-{uuid.uuid4().hex}"
    seen = []

    class Stop(Console):
        def info(self, text: str) -> None:
            if text.endswith(" begun"):
                seen.append(find_process(marker))
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(f"FROM {BASE}\nRUN python -uc 'print(\"begun\"); import time; time.sleep(30)' {marker}", tmp_path,
              console=Stop({}), secrets={"x": b"y"})
    if seen == [False]:
        pytest.skip("the engine's processes cannot be seen from here")
    if engine.is_podman:
        pytest.skip("Podman lets the step that runs end")
    deadline = time.monotonic() + 15
    while find_process(marker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not find_process(marker)


def test_a_context_that_breaks_off_ends_the_build(build: Builder, tmp_path: Path) -> None:
    def context() -> Iterator[bytes]:
        yield cogpredict.tar_file("Dockerfile", f"FROM {BASE}\nRUN sleep 60".encode())
        raise cogpredict.UsageError("x cannot be read")

    begun = time.monotonic()
    with pytest.raises(cogpredict.UsageError, match="x cannot be read"):
        build("", context=context())
    assert time.monotonic() - begun < 40
