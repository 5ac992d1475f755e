"""A model behind a URL, with files inside the JSON: seconds, and the client's peak memory.

    python3 tests/bench/url.py COG_PYZ URL INPUT_NAME SIZE_NAME [-i MIB] [-o MIB]

The model behind URL takes a file as INPUT_NAME and answers with files of SIZE_NAME bytes: start tests/models/files.
Runtimes from 0.17 on take requests of at most 100 MiB, which is a file of 75 MiB; answers have no limit, but the
server holds the whole of one in memory several times over. Wanted: no more than 45 MiB of memory in the client.
"""
import os
import resource
import sys
import tempfile

from files import measured

WANTED = 45.0  # MiB


def main():
    arguments, sizes = sys.argv[1:], {"-i": 50, "-o": 1024}
    for flag in sizes:
        if flag in arguments:
            at = arguments.index(flag)
            sizes[flag] = int(arguments[at + 1])
            del arguments[at:at + 2]
    cog, url, input_name, size_name = arguments
    with tempfile.TemporaryDirectory() as folder:
        source, target = os.path.join(folder, "in.bin"), os.path.join(folder, "out")
        with open(source, "wb") as file:
            for _ in range(sizes["-i"]):
                file.write(os.urandom(1 << 20))
        base = [sys.executable, cog, "predict", "--url", url, "-o", target]
        rows = {f"{sizes['-i']} MiB in": ["-i", f"{input_name}=@{source}"],
                f"{sizes['-o']} MiB out": ["-i", f"{size_name}={sizes['-o'] << 20}"]}
        for name, flags in rows.items():
            seconds, peak = measured(base + flags)
            print(f"{name:<14} {seconds:6.2f} s  peak {peak:5.1f} MiB, {peak / WANTED:.2f} of {WANTED:g}")
    print(f"this script    peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:5.1f} MiB")


if __name__ == "__main__":
    main()
