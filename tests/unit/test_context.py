"""A folder becomes a tar that other programs read as the folder, whatever is in it and whatever happens to it."""
from __future__ import annotations

import hashlib
import io
import os
import shutil
import socket
import subprocess
import tarfile
import tracemalloc
from pathlib import Path
from typing import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cogpredict
from cogpredict import (
    TAR_END,
    TAR_PIECE,
    IgnoreRules,
    UsageError,
    copy_project,
    parse_ignore,
    read_context,
    tar_file,
    tar_header,
)


def open_tar(data: bytes) -> tarfile.TarFile:
    return tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape")


def pack(folder: Path, text: str = "", **options: object) -> tarfile.TarFile:
    data = b"".join(read_context(str(folder), parse_ignore(text), **options))  # type: ignore[arg-type]
    assert data.endswith(bytes(1024)) and len(data) % 512 == 0
    return open_tar(data)


def names(tar: tarfile.TarFile) -> list[str]:
    return [member.name for member in tar]


def content(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file is not None
    return file.read()


def test_a_folder_arrives_whole_and_sorted(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "z").write_bytes(b"z" * 513)
    (tmp_path / "a.txt").write_bytes(b"a")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "a.txt").chmod(0o4751)
    (tmp_path / "link").symlink_to("b/z")
    (tmp_path / "up").symlink_to("../outside")
    (tmp_path / "folder").symlink_to("b")
    os.utime(tmp_path / "a.txt", (1, 1700000000.75))
    tar = pack(tmp_path)
    assert names(tar) == ["a.txt", "b", "b/z", "empty", "folder", "link", "up"]
    assert content(tar, "a.txt") == b"a" and content(tar, "b/z") == b"z" * 513 and content(tar, "empty") == b""
    first = tar.getmember("a.txt")
    assert (first.mode, first.mtime, first.uid, first.gid, first.uname) == (0o4751, 1700000000, 0, 0, "")
    assert tar.getmember("b").isdir()
    assert [tar.getmember(name).linkname for name in ("link", "up", "folder")] == ["b/z", "../outside", "b"]
    assert all(not member.pax_headers for member in tar)


@pytest.mark.parametrize("name", [
    b"x" * 100, b"x" * 101, b"y" * 255, b"d" * 155 + b"/" + b"f" * 100, b"d" * 156 + b"/" + b"f" * 100,
    b"d" * 150 + b"/" + b"f" * 101, b"/".join([b"deep" * 20] * 8), "grüße/名前.txt".encode(), "名".encode() * 80,
    b"\xff\xfe raw", b"\xff" * 120, b"new\nline", b"d" * 99 + b"/", b"e" * 200 + b"/",
])
def test_any_name_survives(name: bytes, tmp_path: Path) -> None:
    place = os.path.join(os.fsencode(tmp_path), name)
    if name.endswith(b"/"):
        os.makedirs(place)
    else:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        Path(os.fsdecode(place)).write_bytes(b"here")
    found = pack(tmp_path)
    assert os.fsencode(names(found)[-1]) == name.rstrip(b"/")
    data = b"".join(read_context(str(tmp_path), IgnoreRules()))
    listing = subprocess.run(["tar", "t", "--quoting-style=literal"], input=data, capture_output=True, check=True)
    assert listing.stdout.endswith(name + b"\n")


def test_a_long_link_survives(tmp_path: Path) -> None:
    for target in ("t" * 100, "t" * 101, "ü" * 90, "t/" * 600 + "end"):
        (tmp_path / "link").symlink_to(target)
        assert pack(tmp_path).getmember("link").linkname == target
        (tmp_path / "link").unlink()


@given(st.binary(min_size=1, max_size=300).filter(lambda name: b"\0" not in name and name.strip(b"/") == name),
       st.integers(0, 0o7777), st.integers(-(1 << 40), 1 << 40))
def test_any_header_can_be_read(name: bytes, mode: int, mtime: int) -> None:
    data = tar_header(name, mode, 0, mtime) + TAR_END
    member = open_tar(data).next()
    assert member is not None
    assert (os.fsencode(member.name), member.mode) == (name, mode)
    assert member.mtime == min(max(mtime, 0), (1 << 33) - 1)


def test_a_file_beyond_eight_gib_says_its_size(tmp_path: Path) -> None:
    size = 9 << 30
    with open(tmp_path / "big", "wb") as file:
        file.truncate(size)
    stream = iter(read_context(str(tmp_path), IgnoreRules()))
    head = next(stream)
    stream.close()  # type: ignore[attr-defined]
    member = open_tar(head).next()
    assert member is not None
    assert (member.name, member.size) == ("big", size)


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, TAR_PIECE - 1, TAR_PIECE, TAR_PIECE + 1, 3 * TAR_PIECE + 7])
def test_any_size_survives(size: int, tmp_path: Path) -> None:
    data = os.urandom(size)
    (tmp_path / "f").write_bytes(data)
    (tmp_path / "g").write_bytes(b"next")
    tar = pack(tmp_path)
    assert content(tar, "f") == data
    assert content(tar, "g") == b"next"


def test_generated_files_come_first_and_stand_in_for_the_folders_own(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("the user's")
    (tmp_path / ".cog" / "build").mkdir(parents=True)
    (tmp_path / ".cog" / "build" / "old").write_text("old")
    (tmp_path / "a").write_text("a")
    extra = {"Dockerfile": b"ours", ".cog/build/requirements.txt": b"x==1\n"}
    tar = pack(tmp_path, "**", extra_files=extra)
    assert names(tar) == [".cog", ".cog/build", ".cog/build/requirements.txt", "Dockerfile"]
    assert content(tar, "Dockerfile") == b"ours"
    assert len({member.mtime for member in tar}) == 1
    assert names(pack(tmp_path, extra_files=extra)) == [
        ".cog", ".cog/build", ".cog/build/requirements.txt", "Dockerfile", "a"]


def test_the_stream_is_the_same_in_any_folder(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        for file in ("sub/x", "b", "a") if name == "one" else ("a", "b", "sub/x"):
            (tmp_path / name / file).write_text(file)
        for file in ("sub/x", "b", "a", "sub"):
            os.utime(tmp_path / name / file, (1, 1))
    one, two = (b"".join(read_context(str(tmp_path / name), IgnoreRules())) for name in ("one", "two"))
    assert one == two


def test_cog_folder_never_travels_and_git_only_in_a_context(tmp_path: Path) -> None:
    for name in (".cog", ".git", "sub/.cog", "sub/.git"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "x").write_text("x")
    assert names(pack(tmp_path, "!.cog"))[:2] == [".git", ".git/x"]
    assert ".cog" not in names(pack(tmp_path, "!.cog"))
    data = b"".join(copy_project(str(tmp_path), extra_files={".cog/openapi_schema.json": b"{}"}))
    found = names(open_tar(data))
    assert found == ["src", "src/.cog", "src/.cog/openapi_schema.json", "src/sub", "src/sub/.cog", "src/sub/.cog/x",
                     "src/sub/.git", "src/sub/.git/x"]


def test_a_large_file_of_ours_goes_by_pieces(tmp_path: Path) -> None:
    (tmp_path / "own.whl").write_bytes(data := os.urandom(3 * TAR_PIECE + 1))
    own = cogpredict.OwnFile(str(tmp_path / "own.whl"))
    pieces = list(cogpredict.render_extra_files({"a/own.whl": own, "b": b"x"}))
    assert max(map(len, pieces)) <= TAR_PIECE
    tar = open_tar(b"".join([*pieces, TAR_END]))
    assert [tar.extractfile(name).read() for name in ("a/own.whl", "b")] == [data, b"x"]  # type: ignore[union-attr]
    assert cogpredict.build_digest({"a": own}) == cogpredict.build_digest({"a": data})


def test_what_is_no_file_is_left_out_with_a_warning(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "sock"))
    (tmp_path / "x").write_text("x")
    warnings: list[str] = []
    assert names(pack(tmp_path, warn=warnings.append)) == ["x"]
    listener.close()
    assert warnings == [f"{name} is neither a file nor a folder and is left out" for name in ("pipe", "sock")]


def swap_reads(monkeypatch: pytest.MonkeyPatch, act: object) -> None:
    """Let something happen before the first read of a file's content."""
    read, done = os.read, []

    def read_after(descriptor: int, size: int) -> bytes:
        if not done:
            done.append(1)
            act()  # type: ignore[operator]
        return read(descriptor, size)

    monkeypatch.setattr(cogpredict.os, "read", read_after)


@pytest.mark.parametrize("size", [1000, TAR_PIECE * 3])
@pytest.mark.parametrize("change", [-600, 600])
def test_a_file_that_changes_while_it_is_read_breaks_nothing(
    size: int, change: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "f").write_bytes(b"f" * size)
    (tmp_path / "g").write_bytes(b"whole")
    swap_reads(monkeypatch, lambda: os.truncate(tmp_path / "f", size + change))
    warnings: list[str] = []
    tar = pack(tmp_path, warn=warnings.append)
    assert content(tar, "f") == b"f" * min(size, size + change) + bytes(max(0, -change))
    assert content(tar, "g") == b"whole"
    assert warnings == (["f shrank while it was read"] if change < 0 else [])


def test_what_vanishes_is_left_out_with_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b/x", "c/y", "d"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)

    def vanish() -> None:
        (tmp_path / "d").unlink()
        shutil.rmtree(tmp_path / "c")

    swap_reads(monkeypatch, vanish)
    warnings: list[str] = []
    assert names(pack(tmp_path, warn=warnings.append)) == ["a", "b", "b/x"]
    assert warnings == ["c vanished while it was read", "d vanished while it was read"]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "secret").write_text("x")

    def refuse(path: str, flags: int) -> int:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(cogpredict.os, "open", refuse)
    with pytest.raises(UsageError, match=r"^sub/secret cannot be read: Permission denied$") as caught:
        pack(tmp_path)
    assert ".dockerignore" in caught.value.hint


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(TAR_PIECE * 4))
    before = set(os.listdir("/proc/self/fd"))
    stream = iter(read_context(str(tmp_path), IgnoreRules()))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    b"".join(read_context(str(tmp_path), IgnoreRules()))
    assert set(os.listdir("/proc/self/fd")) <= before


def test_memory_is_flat(tmp_path: Path) -> None:
    with open(tmp_path / "big", "wb") as file:
        file.truncate(64 << 20)
    for number in range(200):
        (tmp_path / f"small{number}").write_bytes(bytes(50000))
    total = 0
    tracemalloc.start()
    for piece in read_context(str(tmp_path), IgnoreRules()):
        total += len(piece)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total > 70 << 20
    assert peak < 4 << 20


def test_a_made_file_is_a_tar(tmp_path: Path) -> None:
    data = tar_file("etc/x", b"hello", 0o600) + TAR_END
    tar = open_tar(data)
    assert (names(tar), content(tar, "etc/x"), tar.getmember("etc/x").mode) == (["etc/x"], b"hello", 0o600)


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere cannot be read: No such file or directory"):
        list(read_context(str(tmp_path / "nowhere"), IgnoreRules()))


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "a.whl").write_bytes(b"wheel")
    (tmp_path / "requirements.txt").write_text("x")
    return tmp_path


def test_what_is_noted_leaves_out_times_alone(tmp_path: Path) -> None:
    def note() -> str:
        found = hashlib.sha256()
        list(read_context(str(tmp_path), IgnoreRules(), extra_files={"made": b"x"}, note=found.update))
        return found.hexdigest()

    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / ("n" * 160)).write_bytes(b"long name")
    (tmp_path / "big").write_bytes(bytes(TAR_PIECE + 1))
    seen = [note()]
    os.utime(tmp_path / "folder" / ("n" * 160), (1, 1))
    os.utime(tmp_path / "big", (1, 1))
    assert note() == seen[0]
    (tmp_path / "big").chmod(0o700)
    seen.append(note())
    (tmp_path / "big").write_bytes(bytes(TAR_PIECE) + b"1")
    seen.append(note())
    (tmp_path / "folder" / "new").symlink_to("a")
    seen.append(note())
    assert len(set(seen)) == 4


def test_weights_lie_apart_in_a_context(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    for name, size in (("models/a.bin", 10 << 20), ("models/b.bin", 100), ("c.mp4", 10 << 20), ("skip.bin", 10 << 20)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    weights = cogpredict.find_weights(str(tmp_path), cogpredict.parse_ignore("skip.bin"))
    assert weights == {"models/a.bin"}
    data = b"".join(cogpredict.read_context(str(tmp_path), cogpredict.parse_ignore("skip.bin"), weights=weights))
    assert names(open_tar(data)) == [".cog/project/c.mp4", ".cog/project/models", ".cog/weights/models/a.bin",
                                     ".cog/project/models/b.bin"]
