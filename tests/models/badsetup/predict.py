import os
import time

from cog import BasePredictor, Input


def is_limited() -> bool:
    """Whether this container may not have as much memory as it likes."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        if os.path.exists(path):
            with open(path) as file:
                limit = file.read().strip()
            return limit != "max" and int(limit) < 1 << 40
    return False


class Predictor(BasePredictor):
    def setup(self) -> None:
        """What the environment's BADSETUP says: fail, exit, hang, hog (1 GiB, once its memory is limited), ok."""
        mode = os.environ.get("BADSETUP", "fail")
        print("loading the weights", flush=True)
        if mode == "fail":
            raise RuntimeError("the weights are not there")
        if mode == "exit":
            os._exit(7)
        if mode == "hang":
            time.sleep(100000)
        if mode == "hog":
            while not is_limited():
                time.sleep(0.05)
            b"x" * (1 << 30)

    def predict(self, text: str = Input(description="What to say back", default="ok")) -> str:
        return text
