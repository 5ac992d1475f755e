"""Start-up and one cold prediction, side by side in one run.

    python3 tests/bench/cold.py COG_PYZ IMAGE [NAME=VALUE] [-n ROUNDS]

Prints medians and ratios: `predict` against minimal_client.py, `--version` and `predict --help` against `-c pass`.
"""
import json
import os
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))


def timed(command):
    """Seconds that a command takes; its failure ends the benchmark."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def compare(rows, rounds):
    """Medians of the commands, run in turn so that a busy moment hits all of them."""
    times = {name: [] for name in rows}
    for _ in range(rounds):
        for name, command in rows.items():
            times[name].append(timed(command))
    return {name: statistics.median(values) for name, values in times.items()}


def main():
    arguments = sys.argv[1:]
    rounds = int(arguments.pop(arguments.index("-n") + 1)) if "-n" in arguments else 15
    arguments = [argument for argument in arguments if argument != "-n"]
    if len(arguments) < 2:
        sys.exit(__doc__)
    cog, image, pair = (arguments + ["text=bob"])[:3]
    python, (name, _, value) = sys.executable, pair.partition("=")
    start = compare({"python3 -c pass": [python, "-c", "pass"], "--version": [python, cog, "--version"],
                     "predict --help": [python, cog, "predict", "--help"]}, 3 * rounds)
    cold = compare({
        "minimal client": [python, os.path.join(HERE, "minimal_client.py"), image, json.dumps({name: value})],
        "cog.pyz predict": [python, cog, "predict", image, "-i", pair]}, rounds)
    for table in (start, cold):
        base = next(iter(table.values()))
        for row, median in table.items():
            print(f"{row:<16} {1000 * median:8.1f} ms  {median / base:5.2f} x")


if __name__ == "__main__":
    main()
