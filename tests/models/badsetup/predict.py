import os
import time

from cog import BasePredictor, Input


class Predictor(BasePredictor):
    def setup(self) -> None:
        """What the environment's BADSETUP says: fail, exit, hang, hog (1 GiB, after three seconds), ok."""
        mode = os.environ.get("BADSETUP", "fail")
        print("loading the weights", flush=True)
        if mode == "fail":
            raise RuntimeError("the weights are not there")
        if mode == "exit":
            os._exit(7)
        if mode == "hang":
            time.sleep(100000)
        if mode == "hog":
            time.sleep(3)
            b"x" * (1 << 30)

    def predict(self, text: str = Input(description="What to say back", default="ok")) -> str:
        return text
