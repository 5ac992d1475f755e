"""How long after its model is ready `serve` says so.

    python3 tests/bench/serve.py COG_PYZ IMAGE [-n ROUNDS] [-- FLAGS OF SERVE]

The model's own moment is the first READY that /health-check gives, asked every two milliseconds through the published
port. Prints the median and the worst delay of the ready line; wanted are at most 100 ms.
"""
import http.client
import json
import select
import signal
import socket
import statistics
import subprocess
import sys
import time


def is_ready(port):
    """Whether the model says that it is ready."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health-check")
        return json.load(connection.getresponse())["status"] == "READY"
    except (OSError, ValueError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def measure(cog, image, flags):
    """Seconds from the model's READY to the line that tells of it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, cog, "serve", image, "-p", str(port), *flags]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        said, ready, told = b"", 0.0, 0.0
        while not (ready and told):
            if select.select([process.stderr], [], [], 0 if not ready else None)[0] and not told:
                data = process.stderr.read1(1 << 16)
                if not data:
                    sys.exit(said.decode())
                said += data
                told = time.perf_counter() if b"\nServing at " in said else 0.0
            if not ready:
                ready = time.perf_counter() if is_ready(port) else 0.0
                time.sleep(0.002)
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
    return told - ready


def main():
    arguments, _, flags = " ".join(sys.argv[1:]).partition(" -- ")
    arguments = arguments.split()
    rounds = int(arguments.pop(arguments.index("-n") + 1)) if "-n" in arguments else 9
    if len(arguments) < 2:
        sys.exit(__doc__)
    cog, image = [argument for argument in arguments if argument != "-n"]
    delays = [1000 * measure(cog, image, flags.split()) for _ in range(rounds)]
    print(f"ready line after the model's READY: median {statistics.median(delays):.0f} ms, worst {max(delays):.0f} ms "
          f"of {rounds} (wanted: at most 100 ms)")


if __name__ == "__main__":
    main()
