"""Many log lines during a prediction: nothing lost, the client's peak memory, and the runtime's own time beside ours.

    python3 tests/bench/logs.py COG_PYZ IMAGE... [-m MB] [-w BYTES_PER_LINE] [--skip-bare]

Each IMAGE is made from tests/models/logs, which numbers its lines. For the second time the same prediction is asked for
by a plain POST inside a container of its own, with nobody listening to what that prints. A runtime before 0.17 copies
the whole log for each line, whoever listens: 100 MB take it five minutes at 20 kB a line, and more than a quarter of an
hour at 4 kB. So its lines are longer here unless -w says otherwise.
"""
import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engines.api import Engine  # noqa: E402

PEAK = 45  # MiB
WIDTH, OLD_WIDTH = 1000, 200_000
ASK = """\
python -m cog.server.http >/dev/null 2>&1 &
exec python - <<'END'
import json, time, urllib.error, urllib.request
def ask(path, body=None):
    request = urllib.request.Request("http://127.0.0.1:5000" + path, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as reply:
        size = 0
        for part in iter(lambda: reply.read(1 << 16), b""):
            size, first = size + len(part), part if not size else first
        return size, first
while True:
    try:
        if json.loads(ask("/health-check")[1])["status"] == "READY":
            break
    except (OSError, ValueError):
        pass
    time.sleep(0.05)
began = time.perf_counter()
ask("/predictions", json.dumps({"input": {"lines": LINES, "width": WIDTH}}).encode())
print("seconds", time.perf_counter() - began)
END
"""


def is_old(engine, image):
    """Whether the image's runtime is one before 0.17."""
    version = engine.image(image)["Config"]["Labels"].get("run.cog.version", "")
    return tuple(map(int, re.findall(r"\d+", version)[:2])) < (0, 17)


def run_bare(engine, image, lines, width):
    """Seconds that the runtime needs for the prediction when nothing of ours is there."""
    script = ASK.replace("LINES", str(lines)).replace("WIDTH", str(width))
    said = engine.run({"Image": image, "Cmd": ["sh", "-c", script], "Labels": {"cog.test": "bench"}, "Tty": True})
    found = re.search(r"seconds ([\d.]+)", str(said))
    return float(found[1]) if found else float("nan")


def run_ours(cog, image, lines, width):
    """(seconds of the whole command, peak MiB, exit code, numbers of the lines that came)."""
    with tempfile.TemporaryFile() as log:
        began = time.perf_counter()
        child = subprocess.Popen([sys.executable, cog, "predict", image, "-i", f"lines={lines}", "-i",
                                  f"width={width}"], stdout=subprocess.DEVNULL, stderr=log)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - began
        log.seek(0)
        numbers = [int(found[1]) for found in (re.match(rb"(\d{8}) x", line) for line in log) if found]
    return seconds, usage.ru_maxrss / 1024, status >> 8, numbers


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("cog")
    parser.add_argument("image", nargs="+")
    parser.add_argument("-m", type=int, default=100, metavar="MB")
    parser.add_argument("-w", type=int, metavar="BYTES")
    parser.add_argument("--skip-bare", action="store_true")
    options, engine = parser.parse_args(), Engine()
    for image in options.image:
        width = options.w or (OLD_WIDTH if is_old(engine, image) else WIDTH)
        lines = options.m * 1_000_000 // width
        bare = "" if options.skip_bare else f"  the runtime alone {run_bare(engine, image, lines, width):6.1f} s"
        seconds, peak, code, numbers = run_ours(options.cog, image, lines, width)
        seen = set(numbers)
        print(f"{image:<24} {options.m} MB in {lines} lines  {seconds:6.1f} s{bare}  peak {peak:5.1f} MiB (<= {PEAK})  "
              f"exit {code}  lines lost {lines - len(seen)}, twice {len(numbers) - len(seen)}, "
              f"in order {numbers == sorted(numbers)}", flush=True)


if __name__ == "__main__":
    main()
