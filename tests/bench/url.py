"""A model behind a URL, with files inside the JSON: seconds, and the client's peak memory.

    python3 tests/bench/url.py COG_PYZ URL INPUT_NAME SIZE_NAME [-i MIB] [-o MIB]

The model behind URL takes a file as INPUT_NAME and answers with files of SIZE_NAME bytes: start tests/models/files.
Runtimes from 0.17 on take requests of at most 100 MiB, which is a file of 75 MiB; answers have no limit, but the
server holds the whole of one in memory several times over. Wanted: no more than 45 MiB of memory in the client.
"""
import sys

from files import measure


def main():
    arguments, sizes = sys.argv[1:], {"-i": 50, "-o": 1024}
    for flag in sizes:
        if flag in arguments:
            at = arguments.index(flag)
            sizes[flag] = int(arguments[at + 1])
            del arguments[at:at + 2]
    if len(arguments) < 4:
        sys.exit(__doc__)
    cog, url, input_name, size_name = arguments
    measure([sys.executable, cog, "predict", "--url", url], input_name, size_name, sizes["-i"], sizes["-o"])


if __name__ == "__main__":
    main()
