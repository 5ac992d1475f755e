"""The engine's API on a real engine, through the same methods as on the scripted one."""
from __future__ import annotations

import hashlib
import io
import json
import os
import select
import tarfile
import time
import uuid
from typing import Any, Iterator

import make_image
import pytest

from cogpredict import (
    Console,
    Engine,
    EngineError,
    Transport,
    connect_engine,
    find_address,
    is_missing_gpu,
    is_missing_init,
    is_platform_mismatch,
)

IMAGE = "python:3.11-slim"
LABEL = f"cog.test=engine-api-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def engine() -> Iterator[Engine]:
    """The engine as a user would find it. What the test made is removed."""
    with connect_engine(find_address("", os.environ, os.environ["HOME"]), Console({}), os.environ) as found:
        yield found
        for container in found.container_list(LABEL):
            found.container_remove(container["Id"])
        for image in found.image_list(LABEL):
            found._read("DELETE", f"/images/{image['Id']}", {"force": "1"})


def body(*command: str, **host: Any) -> dict[str, Any]:
    name, _, value = LABEL.partition("=")
    return {"Image": IMAGE, "Cmd": list(command), "Labels": {name: value}, "HostConfig": {"AutoRemove": True, **host}}


@pytest.fixture
def image(engine: Engine) -> str:
    """The base image, on the engine."""
    if engine.image_inspect(IMAGE) is None:
        pytest.skip(f"the engine has no {IMAGE}; tests/engines/base_image.py makes it")
    return IMAGE


def read(stream: Transport, until: bytes | None = None) -> bytes:
    """What a stream brings until these bytes, or its end."""
    got, deadline = b"", time.monotonic() + 20
    while time.monotonic() < deadline:
        if not stream.pending():
            select.select([stream], [], [], 1)
        try:
            data = stream.recv(1 << 16)
        except BlockingIOError:
            continue
        got += data
        if not data or (until is not None and until in got):
            return got
    raise AssertionError(f"no end after {got!r}")


def exit_code(ended: Any) -> int:
    """What a pending wait brings."""
    found = None
    while found is None:
        select.select([ended], [], [], 20)
        found = ended.feed(ended.recv(1 << 16))
    ended.close()
    return int(found["StatusCode"])


def run(engine: Engine, container: str) -> tuple[bytes, int]:
    """All output and the exit code of a container that is created."""
    attached, ended = engine.container_attach(container), engine.container_wait(container)
    engine.container_start(container)
    output = read(attached)
    attached.close()
    return output, exit_code(ended)


def test_all_output_and_the_exit_code_of_a_container_that_ends_at_once(engine: Engine, image: str) -> None:
    for _ in range(5):
        output, status = run(engine, engine.container_create(body("sh", "-c", "echo out; echo err >&2; exit 3")))
        assert b"\x01\0\0\0\0\0\0\x04out\n" in output and b"\x02\0\0\0\0\0\0\x04err\n" in output
        assert status == 3
    assert engine.container_list(LABEL) == []


def test_an_exec_is_a_duplex_stream_whose_stdin_ends(engine: Engine, image: str) -> None:
    container = engine.container_create(body("sleep", "60", Init=not engine.is_podman))
    engine.container_start(container)
    exec_id = engine.exec_create(container, ["env", "A=b", "sh", "-c", "cat; echo $A >&2; exit 4"])
    stream = engine.exec_start(exec_id)
    assert stream.send(b"hello") == 5
    assert read(stream, b"hello") == b"\x01\0\0\0\0\0\0\x05hello"
    stream.half_close()
    assert read(stream) == b"\x02\0\0\0\0\0\0\x02b\n"
    stream.close()
    engine.container_remove(container)


def test_a_forgotten_kill_ends_and_removes(engine: Engine, image: str) -> None:
    container = engine.container_create(body("sleep", "60"), name=f"cog-test-{uuid.uuid4().hex[:12]}")
    ended = engine.container_wait(container)
    engine.container_start(container)
    engine.container_kill(container, forget=True)
    assert exit_code(ended) == 137
    deadline = time.monotonic() + 10
    while engine.container_inspect(container) is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert engine.container_inspect(container) is None
    engine.container_kill(container)
    engine.container_remove(container)
    assert not engine.was_oom_killed(container)


def knows_out_of_memory(greedy: dict[str, Any]) -> bool:
    """Whether the engine says of such a container, which stays, that it ran out of memory."""
    plain = make_image.Engine()
    container = plain.call("POST", "/containers/create", None, greedy)["Id"]
    try:
        plain.call("POST", f"/containers/{container}/start")
        assert plain.call("POST", f"/containers/{container}/wait")["StatusCode"] == 137
        return bool(plain.call("GET", f"/containers/{container}/json")["State"]["OOMKilled"])
    finally:
        plain.call("DELETE", f"/containers/{container}", {"force": 1})


def test_out_of_memory_is_known_after_the_container_is_gone(engine: Engine, image: str) -> None:
    if engine.is_podman:
        pytest.skip("Podman reports no such event")
    limits = {"Memory": 32 << 20, "MemorySwap": 32 << 20}
    greedy = ("python3", "-c", "print(len(bytearray(1 << 29)))")
    if not knows_out_of_memory(body(*greedy, **limits, AutoRemove=False)):
        pytest.skip("the engine itself does not know of it here: docker inspect says OOMKilled false")
    for _ in range(3):  # an engine drops the event of a container that it has removed before it hears of it
        container = engine.container_create(body(*greedy, **limits))
        assert run(engine, container)[1] == 137
        assert engine.container_inspect(container) is None
        asked = {"since": "1", "until": f"{time.time() + 0.3:.6f}",
                 "filters": json.dumps({"container": [container], "event": ["oom"]})}
        recorded = list(make_image.Engine().stream("GET", "/events", asked))
        assert engine.was_oom_killed(container) is bool(recorded)
        if recorded:
            return
    pytest.fail("the engine recorded none of three")


def test_a_detached_process_removes_by_name(engine: Engine, image: str) -> None:
    name = f"cog-test-{uuid.uuid4().hex[:12]}"
    container = engine.container_create(body("sleep", "60"), name=name)
    engine.container_start(container)
    assert engine.detached_remove(name)
    assert engine.container_inspect(container) is None


def test_what_is_there_is_found_and_what_is_not_is_none(engine: Engine, image: str) -> None:
    container = engine.container_create(body("true"))
    assert [found["Id"] for found in engine.container_list(LABEL)] == [container]
    assert (engine.container_inspect(container) or {})["Id"] == container
    engine.container_remove(container)
    engine.container_remove(container)
    assert engine.container_inspect(container) is None
    assert engine.image_inspect("cog-test/none:none") is None
    assert engine.info()["OSType"] == "linux"


def test_a_missing_image_is_refused_in_the_engines_words(engine: Engine) -> None:
    with pytest.raises(EngineError, match="(?i)no such image") as caught:
        engine.container_create({**body("true"), "Image": "cog-test/none:none"})
    assert caught.value.status == 404


def test_another_platform_is_refused(engine: Engine, image: str) -> None:
    if engine.is_podman or "io.containerd" in str(engine.info().get("DriverStatus")):
        pytest.skip("this engine creates the container all the same, or pulls")
    with pytest.raises(EngineError) as caught:
        engine.container_create(body("true"), platform="linux/s390x")
    assert is_platform_mismatch(caught.value)


def test_a_gpu_that_is_not_there_is_recognised(engine: Engine, image: str) -> None:
    if engine.is_podman:
        asked: Any = [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=all"]}]
    else:
        asked = [{"Driver": "", "Count": -1, "Capabilities": [["gpu"]]}]
    if "nvidia" in str(engine.info().get("Runtimes")) or os.path.exists("/dev/nvidiactl"):
        pytest.skip("this engine has a GPU")
    with pytest.raises(EngineError) as caught:
        engine.container_start(engine.container_create(body("true", DeviceRequests=asked)))
    assert is_missing_gpu(caught.value)


def test_an_init_is_there_or_its_absence_recognised(engine: Engine, image: str) -> None:
    try:
        container = engine.container_create(body("true", Init=True))
        assert run(engine, container)[1] == 0
    except EngineError as error:
        assert is_missing_init(error)


def pack(files: dict[str, bytes], mode: str = "w") -> bytes:
    """A tar of these files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def test_files_are_put_into_a_container(engine: Engine, image: str) -> None:
    data = pack({"a.txt": b"abc"})
    container = engine.container_create(body("cat", "/tmp/a.txt"))
    engine.container_put_archive(container, "/tmp", (data[at:at + 999] for at in range(0, len(data), 999)))
    assert run(engine, container) == (b"\x01\0\0\0\0\0\0\x03abc", 0)


def build(engine: Engine, tag: str, dockerfile: str) -> list[dict[str, Any]]:
    return list(engine.image_build({"version": "2", "t": tag}, [pack({"Dockerfile": dockerfile.encode()})]))


def test_an_image_is_built_tagged_and_removed(engine: Engine, image: str) -> None:
    name, _, value = LABEL.partition("=")
    tag = f"cog-test-{uuid.uuid4().hex[:12]}"
    events = build(engine, f"{tag}:1", f"FROM {IMAGE}\nLABEL {name}={value}\n")
    assert events and not any("error" in event for event in events)
    found = engine.image_inspect(f"{tag}:1")
    assert found is not None and found["Config"]["Labels"][name] == value
    engine.image_tag(f"{tag}:1", tag, "2")
    assert engine.image_inspect(f"{tag}:2") is not None
    engine.image_remove(f"{tag}:1")
    engine.image_remove(f"{tag}:1")
    assert engine.image_inspect(f"{tag}:1") is None
    engine.image_remove(f"{tag}:2")
    assert any("error" in event for event in build(engine, f"{tag}:1", f"FROM {IMAGE}\nRUN exit 7\n"))


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_an_image_in_a_tar_is_loaded_under_its_name(engine: Engine, mode: str) -> None:
    name, _, value = LABEL.partition("=")
    tag = f"cog-test-{uuid.uuid4().hex[:12]}:1"
    layer = pack({"a.txt": os.urandom(1 << 20)})
    config = {"architecture": "amd64", "os": "linux", "config": {"Labels": {name: value}},
              "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]}}
    manifest = [{"Config": "config.json", "RepoTags": [tag], "Layers": ["layer.tar"]}]
    saved = pack({"layer.tar": layer, "config.json": json.dumps(config).encode(),
                  "manifest.json": json.dumps(manifest).encode()}, mode)
    events: list[dict[str, Any]] = []
    names = engine.image_load(io.BytesIO(saved), on_event=events.append)
    assert len(names) == 1 and names[0].endswith(tag) and events
    assert engine.image_inspect(names[0]) is not None


def test_a_tar_that_is_none_is_refused(engine: Engine) -> None:
    with pytest.raises(EngineError):
        engine.image_load(io.BytesIO(b"this is no tar" * 1000))


def test_a_registry_that_is_not_there_is_an_error_with_a_hint(engine: Engine) -> None:
    with pytest.raises(EngineError) as caught:
        engine.image_pull("127.0.0.1:1/none:none")
    assert "docker save" in caught.value.hint
