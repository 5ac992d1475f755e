"""A big file in and out of a model: seconds, and the client's peak memory.

    python3 tests/bench/files.py COG_PYZ IMAGE INPUT_NAME SIZE_NAME [-m MIB]

IMAGE takes a file as INPUT_NAME and answers with files of SIZE_NAME bytes (tests/models/files does).
"""
import os
import resource
import subprocess
import sys
import tempfile
import time


def measured(command):
    """(seconds, peak MiB) of a command; its failure ends the benchmark."""
    began = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{command} failed:\n{errors.decode()}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def main():
    arguments = sys.argv[1:]
    mib = int(arguments.pop(arguments.index("-m") + 1)) if "-m" in arguments else 1024
    cog, image, input_name, size_name = [argument for argument in arguments if argument != "-m"]
    with tempfile.TemporaryDirectory() as folder:
        source, target = os.path.join(folder, "in.bin"), os.path.join(folder, "out")
        with open(source, "wb") as file:
            for _ in range(mib):
                file.write(os.urandom(1 << 20))
        base = [sys.executable, cog, "predict", image, "-o", target]
        rows = {f"{mib} MiB in": ["-i", f"{input_name}=@{source}"],
                f"{mib} MiB out": ["-i", f"{size_name}={mib << 20}"]}
        for name, flags in rows.items():
            seconds, peak = measured(base + flags)
            print(f"{name:<14} {seconds:6.2f} s  peak {peak:5.1f} MiB")
    print(f"this script    peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:5.1f} MiB")


if __name__ == "__main__":
    main()
