import sys
import time

from cog import BasePredictor, Input


class Predictor(BasePredictor):
    def setup(self) -> None:
        print("setup says hello", flush=True)

    def predict(
        self,
        lines: int = Input(description="How many lines to print", default=10, ge=0),
        width: int = Input(description="Bytes of each, its end included", default=40, ge=10),
        errors: bool = Input(description="Every second one to stderr", default=False),
        bar: bool = Input(description="A progress bar on stderr", default=False),
        delay: float = Input(description="Seconds after each", default=0.0, ge=0),
    ) -> str:
        """Numbered lines, so that a lost one is seen."""
        for number in range(lines):
            stream = sys.stderr if errors and number % 2 else sys.stdout
            stream.write(f"{number:08d} " + "x" * (width - 10) + "\n")
            if delay:
                stream.flush()
                time.sleep(delay)
        if bar:
            for percent in range(0, 101, 5):
                sys.stderr.write(f"\r{percent:3d}%|{'#' * (percent // 5):20}|")
                sys.stderr.flush()
                time.sleep(0.01)
            sys.stderr.write("\n")
        return f"printed {lines}"
