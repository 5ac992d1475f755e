"""Many log lines during a prediction: nothing lost, and the client's peak memory.

    python3 tests/bench/logs.py COG_PYZ IMAGE... [-m MB]

Each IMAGE is made from tests/models/logs, which numbers its lines. They are long: the runtimes before 0.17 take a time
that grows with the square of the number of lines, whoever listens.
"""
import os
import re
import subprocess
import sys
import tempfile
import time

WIDTH = 4000  # bytes of a line


def main():
    arguments = sys.argv[1:]
    megabytes = int(arguments.pop(arguments.index("-m") + 1)) if "-m" in arguments else 100
    cog, *images = [argument for argument in arguments if argument != "-m"]
    lines = megabytes * 1_000_000 // WIDTH
    for image in images:
        with tempfile.TemporaryFile() as log:
            began = time.perf_counter()
            child = subprocess.Popen([sys.executable, cog, "predict", image, "-i", f"lines={lines}", "-i",
                                      f"width={WIDTH}"], stdout=subprocess.DEVNULL, stderr=log)
            _, status, usage = os.wait4(child.pid, 0)
            seconds = time.perf_counter() - began
            log.seek(0)
            numbers = [int(found[1]) for found in (re.match(rb"(\d{8}) x", line) for line in log) if found]
        missing = lines - len(set(numbers))
        print(f"{image:<28} {megabytes} MB {seconds:6.1f} s  peak {usage.ru_maxrss / 1024:5.1f} MiB  "
              f"exit {status >> 8}  lines lost {missing}, twice {len(numbers) - len(set(numbers))}, "
              f"in order {numbers == sorted(numbers)}")


if __name__ == "__main__":
    main()
