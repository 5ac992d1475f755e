"""A model in a folder: what its schema, its first build and what has not changed cost, side by side in one run.

    python3 tests/bench/source.py COG_PYZ [-n ROUNDS]

Prints medians, and each figure beside what it must reach. Needs an engine that has or can pull python:3.11-slim, and
a package index; what it builds it removes.
"""
from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

HERE = Path(__file__).resolve().parent
IMAGE = "cog-bench/source:1"
CONFIG = 'build:\n  python_version: "3.11"\npredict: "predict.py:Predictor"\n'
KINDS = (("str", '"a"', ""), ("int", "3", ", ge=0, le=10"), ("float", "0.5", ", ge=0, le=1"), ("bool", "True", ""))


def write_wide_model(folder: str) -> None:
    """A predictor with a hundred inputs."""
    os.makedirs(folder)
    Path(folder, "cog.yaml").write_text(CONFIG)
    lines = [f'input_{number}: {kind} = Input(description="The input {number}", default={default}{limits}),'
             for number, (kind, default, limits) in enumerate(KINDS * 25)]
    Path(folder, "predict.py").write_text(
        "from cog import BasePredictor, Input\n\n\nclass Predictor(BasePredictor):\n    def predict(\n        self,\n"
        + "".join(f"        {line}\n" for line in lines) + '    ) -> str:\n        return input_0\n')


def timed(words: list[str], folder: str) -> float:
    """Seconds that a command takes in a folder. Raises CalledProcessError, with what it said."""
    began = time.perf_counter()
    done = subprocess.run(words, cwd=folder, capture_output=True)
    seconds = time.perf_counter() - began
    if done.returncode:
        sys.stderr.buffer.write(done.stderr)
        done.check_returncode()
    return seconds


def medians(rows: dict[str, tuple[list[str], str]], rounds: int) -> dict[str, float]:
    """Medians of the commands, run in turn so that a busy moment hits all of them."""
    times: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(rounds):
        for name, (words, folder) in rows.items():
            times[name].append(timed(words, folder))
    return {name: statistics.median(found) for name, found in times.items()}


class Daemon(http.client.HTTPConnection):
    """The engine's API on its socket, with nothing of the program's between."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").partition("://")[2])


def build_directly(context: bytes) -> float:
    """Seconds that the engine takes for a context, all of it built anew. Raises RuntimeError: it failed."""
    began = time.perf_counter()
    daemon = Daemon("engine")
    daemon.request("POST", f"/build?version=2&nocache=1&t={quote(IMAGE)}&dockerfile=.cog/build/Dockerfile", context,
                   {"Content-Type": "application/x-tar"})
    answer = daemon.getresponse().read()
    daemon.close()
    if b'"error"' in answer:
        raise RuntimeError(answer.decode())
    return time.perf_counter() - began


def development_context(folder: str, archive: str) -> bytes:
    """The context of which `predict` and `exec` build their image, as the program in the archive makes it."""
    sys.path.insert(0, os.path.join(archive, "src"))
    import cogpredict

    config = cogpredict.read_config(os.path.join(folder, "cog.yaml"))
    settings = cogpredict.read_build_settings(config, os.environ, folder)._replace(for_development=True)
    files = cogpredict.build_files(config, settings, lambda name: Path(folder, name).read_bytes())
    return b"".join(cogpredict.render_extra_files(files)) + cogpredict.TAR_END


def remove_image(image: str) -> None:
    """Remove an image and its names."""
    daemon = Daemon("engine")
    daemon.request("DELETE", f"/images/{quote(image)}?force=1")
    daemon.getresponse().read()
    daemon.close()


def remove_images(label: str) -> None:
    """Remove the images with a label."""
    daemon = Daemon("engine")
    daemon.request("GET", "/images/json?filters=" + quote(json.dumps({"label": [label]})))
    found = json.loads(daemon.getresponse().read())
    daemon.close()
    for image in found:
        remove_image(image["Id"])


def show(name: str, figure: float, unit: str, wanted: float) -> None:
    """One line: what was found, what is wanted."""
    print(f"{name:<58} {figure:7.2f} {unit:<2}  wanted: at most {wanted:g} {unit}")


def main() -> None:
    arguments = sys.argv[1:]
    rounds = int(arguments.pop(arguments.index("-n") + 1)) if "-n" in arguments else 9
    if not arguments:
        sys.exit(__doc__)
    cog = [sys.executable, os.path.abspath(arguments[0])]
    with tempfile.TemporaryDirectory() as root:
        wide, echo = os.path.join(root, "wide"), os.path.join(root, "echo")
        write_wide_model(wide)
        found = medians({"pass": ([sys.executable, "-c", "pass"], wide), "version": ([*cog, "--version"], wide),
                         "inspect": ([*cog, "inspect"], wide)}, 3 * rounds)
        print(f"this machine now: {1000 * found['pass']:.1f} ms for `python3 -c pass`; the limits are for one of 7 ms")
        show("schema of 100 inputs, over --version", 1000 * (found["inspect"] - found["version"]), "ms", 60)
        shutil.copytree(HERE.parent / "models" / "echo", echo)
        try:
            timed([*cog, "predict"], echo)
            timed([*cog, "build", "-t", IMAGE], echo)
            found = medians({"folder": ([*cog, "predict"], echo), "image": ([*cog, "predict", IMAGE], echo),
                             "build": ([*cog, "build", "-t", IMAGE], echo)}, rounds)
            show("predict of an unchanged folder, over predict on its image", 1000 * (found["folder"] - found["image"]),
                 "ms", 60)
            show("build of an unchanged model", found["build"], "s", 0.5)
            context, ours, theirs = development_context(echo, cog[1]), [], []
            for _ in range((rounds + 1) // 2):
                theirs.append(build_directly(context))
                remove_image(IMAGE)
                ours.append(timed([*cog, "exec", "--no-cache", "true"], echo) - timed([*cog, "exec", "true"], echo))
            show("first build, over the engine's own of the same Dockerfile",
                 statistics.median(ours) / statistics.median(theirs), "x", 1.1)
        finally:
            remove_images(f"cog.pyz.project={echo}")
            remove_image(IMAGE)


if __name__ == "__main__":
    main()
