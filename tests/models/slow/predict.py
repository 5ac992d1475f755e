import os
import signal
import time

from cog import BasePredictor, Input


class Predictor(BasePredictor):
    def setup(self) -> None:
        seconds = float(os.environ.get("SLOW_SETUP", "0"))
        if seconds:
            print(f"setup takes {seconds:g} seconds", flush=True)
            time.sleep(seconds)

    def predict(
        self,
        seconds: float = Input(description="How long it takes", default=1.0, ge=0),
        stubborn: bool = Input(description="Ignore SIGTERM and cancellation", default=False),
        busy: bool = Input(description="Keep a core busy all the while", default=False),
    ) -> str:
        if stubborn:
            ignore_signals()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                print("tick", flush=True)
                wait(min(0.5, max(0.0, end - time.monotonic())), busy)
            except BaseException:
                if not stubborn:
                    raise
        return "slept"


def ignore_signals():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        try:
            signal.signal(number, signal.SIG_IGN)
        except ValueError:
            pass  # the prediction runs in a thread that may not


def wait(seconds, busy):
    end = time.monotonic() + seconds
    while busy and time.monotonic() < end:
        pass
    time.sleep(max(0.0, end - time.monotonic()))
