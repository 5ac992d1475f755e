"""The helper where it lives: in a container beside a model, reached through an exec's stream."""
from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any, Iterator

import pytest
from helperchild import MemorySink, ask, make_lane

import cogpredict as c

MODEL = (Path(__file__).parent / "containermodel.py").read_text()
IMAGE = os.environ.get("COG_TEST_BASE_IMAGE", "python:3.11-slim")
LANE = 20123


class Box:
    """A container with a model in it, the helper beside it, and the near end here."""

    def __init__(self, engine: c.Engine, *arguments: str, init: bool = True, user: str = "", network: str = "none",
                 start_helper: bool = True, **settings: Any) -> None:
        self.engine, self.name = engine, f"cog-test-helper-{uuid.uuid4().hex[:12]}"
        body: c.JSON = {"Image": IMAGE, "Cmd": ["python", "-c", MODEL, *arguments], "User": user,
                "Labels": {"cog.test": "link"},
                "HostConfig": {"AutoRemove": True, "NetworkMode": network, "Init": init}}
        self.init = init
        try:
            self.container = engine.container_create(body, name=self.name)
        except c.EngineError as error:
            if not c.is_missing_init(error):
                raise
            self.init = body["HostConfig"]["Init"] = False
            self.container = engine.container_create(body, name=self.name)
        self.loop = c.Loop()
        self.output = {1: b"", 2: b""}
        self.gone = False
        frames = c.FrameParser()

        def on_output(data: bytes) -> None:
            for stream, part in frames.feed(data):
                self.output[stream] += part

        def on_exit(data: bytes) -> None:
            self.gone = self.gone or ended.feed(data) is not None

        self.loop.add(engine.container_attach(self.container), on_output, lambda: None)
        ended = engine.container_wait(self.container)
        self.loop.add(ended, on_exit, lambda: None)
        engine.container_start(self.container)
        self.lane, self.uploads, self.hooks = make_lane(LANE)
        command = ["python", "-ISc", c.helper_source()]
        stream = engine.exec_start(engine.exec_create(self.container, command))
        self.link = c.Link(self.loop, stream, self.lane,
                           {"port": 5000, "lane": LANE, "leash": "container", **settings}, framed=True)

    def wait(self, until: Any, seconds: float = 20) -> None:
        assert self.loop.run(until, time.monotonic() + seconds), (self.link.end_reason, self.link.trouble)

    def wait_ready(self) -> None:
        self.wait(lambda: self.link.health == "READY" or self.link.ended)
        assert self.link.health == "READY", (self.link.end_reason, self.link.trouble, self.output)

    def need_init(self) -> None:
        """A PID 1 that ignores signals cannot be killed from inside; an init in its place ends with the model."""
        if not self.init:
            pytest.skip("this engine has no init program")

    def do(self, **order: Any) -> c.JSON:
        return dict(json.loads(ask(self.link, "POST", "/do", body=json.dumps(order).encode(), timeout=120).read()))

    def close(self) -> None:
        self.loop.close()
        self.engine.container_remove(self.container)


@pytest.fixture
def engine(engine_address: str) -> Iterator[c.Engine]:
    console = c.Console({}, quiet=True)
    with c.connect_engine(c.parse_address(engine_address), console, {}) as engine:
        yield engine


@pytest.fixture
def make_box(engine: c.Engine) -> Iterator[Any]:
    boxes: list[Box] = []

    def make(*arguments: str, **keywords: Any) -> Box:
        boxes.append(Box(engine, *arguments, **keywords))
        return boxes[-1]

    yield make
    for box in boxes:
        box.close()


def test_no_network_and_another_user(make_box: Any) -> None:
    box = make_box(user="1234:1234")
    box.wait_ready()
    assert box.link.hello["lane"] == LANE and box.link.hello["uid"] == 1234
    assert box.do() == {"uid": 1234}


def test_files_in_and_out(make_box: Any) -> None:
    data = os.urandom(3_000_000)
    box = make_box()
    box.wait_ready()
    url = box.lane.add_file(lambda: io.BytesIO(data), "a b.bin", len(data))
    assert box.do(get=url) == {"status": 200, "size": len(data), "digest": hashlib.blake2b(data).hexdigest()}
    done = box.do(put=box.lane.url("up") + "/x%20y.png", size=5_000_000)
    assert done["status"] == 200 and done["location"].startswith(box.lane.url("out/0/"))
    box.wait(lambda: not box.lane.open_uploads)
    name, _, length, sink = box.uploads[0]
    assert (name, length, bytes(sink.data), sink.state) == ("x y.png", 5_000_000, bytes(5_000_000), "closed")


def test_a_mark_comes_behind_what_was_printed(make_box: Any) -> None:
    box = make_box(user="1234")
    box.wait_ready()
    box.do(say="said before")
    assert box.link.mark("the mark", time.monotonic() + 5) == 2
    box.wait(lambda: all(b"the mark\n" in output for output in box.output.values()), 5)
    assert box.output == {1: b"said before\nthe mark\n", 2: b"said before\nthe mark\n"}


@pytest.mark.parametrize("user", ["", "1234"])
@pytest.mark.parametrize("order", ["close", "kill"])
def test_the_leash_ends_a_deaf_and_busy_model(make_box: Any, user: str, order: str) -> None:
    box = make_box("deaf", user=user)
    box.need_init()
    box.wait_ready()
    box.do(fork=3)
    if order == "close":
        box.link.close()
    else:
        box.link.control({"kill": True})
    box.wait(lambda: box.gone)


def test_without_an_init_children_die_and_the_model_is_asked_to(make_box: Any) -> None:
    box = make_box(init=False)
    box.wait_ready()
    box.do(fork=3)
    box.link.close()
    box.wait(lambda: box.gone)


NEAR = """
import sys, time
sys.path[:0] = {path!r}
import cogpredict as c
engine = c.connect_engine(c.parse_address({address!r}), c.Console({{}}, quiet=True), {{}})
loop = c.Loop()
stream = engine.exec_start(engine.exec_create({container!r}, ["python", "-ISc", c.helper_source()]))
link = c.Link(loop, stream, None, {{"port": 5000, "leash": "container"}}, framed=True)
loop.run(lambda: link.health == "READY", time.monotonic() + 20)
print("ready", flush=True)
loop.run(lambda: False)
"""


def test_the_leash_holds_when_the_near_end_is_killed(make_box: Any, engine_address: str) -> None:
    box = make_box("deaf", leash="")
    box.need_init()
    box.wait_ready()
    code = NEAR.format(path=sys.path[:3], address=engine_address, container=box.container)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as near:
        assert near.stdout and near.stdout.readline() == b"ready\n"
        near.kill()
    box.wait(lambda: box.gone)


def test_a_taken_lane_port_is_reported(make_box: Any) -> None:
    box = make_box()
    box.wait_ready()
    stream = box.engine.exec_start(box.engine.exec_create(box.container, ["python", "-ISc", c.helper_source()]))
    second = c.Link(box.loop, stream, None, {"port": 5000, "lane": LANE, "leash": ""}, framed=True)
    box.wait(lambda: second.hello)
    assert second.hello["lane"] == 0 and "in use" in second.hello["error"]
    box.wait(lambda: second.health == "READY")


class SlowSink(MemorySink):
    """Keeps the near end busy for a while with each piece."""

    def write(self, data: bytes) -> None:
        time.sleep(len(data) / 10e6)
        super().write(data)


def test_a_slow_stream_does_not_hold_an_upload_up(make_box: Any) -> None:
    box = make_box(user="1234", spool=0.2)
    box.lane.on_upload = lambda *_: sinks.append(SlowSink()) or sinks[0]
    sinks: list[SlowSink] = []
    box.wait_ready()
    began = time.monotonic()
    done = box.do(put=box.lane.url("up") + "/x", size=60_000_000)
    answered = time.monotonic() - began
    assert done["status"] == 200
    box.wait(lambda: not box.lane.open_uploads, 30)
    assert len(sinks[0].data) == 60_000_000 and sinks[0].state == "closed"
    assert answered < 0.7 * (time.monotonic() - began)
