"""A big file in and out of a model: seconds, and the client's peak memory.

    python3 tests/bench/files.py COG_PYZ IMAGE INPUT_NAME SIZE_NAME [-m MIB]

IMAGE takes a file as INPUT_NAME and answers with files of SIZE_NAME bytes (tests/models/files does).
Wanted: no more than 45 MiB of memory in the client.
"""
import os
import resource
import subprocess
import sys
import tempfile
import time

WANTED = 45.0  # MiB


def measured(command):
    """(seconds, peak MiB) of a command; its failure ends the benchmark."""
    began = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{command} failed:\n{errors.decode()}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def measure(command, input_name, size_name, mib_in, mib_out):
    """Print what a file in and a file out take; the command lacks the inputs and -o."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = os.path.join(folder, "in.bin"), os.path.join(folder, "out")
        with open(source, "wb") as file:
            for _ in range(mib_in):
                file.write(os.urandom(1 << 20))
        rows = {f"{mib_in} MiB in": f"{input_name}=@{source}", f"{mib_out} MiB out": f"{size_name}={mib_out << 20}"}
        for name, given in rows.items():
            seconds, peak = measured([*command, "-o", target, "-i", given])
            print(f"{name:<14} {seconds:6.2f} s  peak {peak:5.1f} MiB, {peak / WANTED:.2f} of {WANTED:g}")
    print(f"this script    peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:5.1f} MiB")


def main():
    arguments = sys.argv[1:]
    mib = int(arguments.pop(arguments.index("-m") + 1)) if "-m" in arguments else 1024
    if len(arguments) < 4:
        sys.exit(__doc__)
    cog, image, input_name, size_name = [argument for argument in arguments if argument != "-m"]
    measure([sys.executable, cog, "predict", image], input_name, size_name, mib, mib)


if __name__ == "__main__":
    main()
