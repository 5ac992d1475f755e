import os
import sys
import time

from cog import BasePredictor, Input


class Predictor(BasePredictor):
    def predict(self, kind: str = Input(description="What to do that is hard to report", default="")) -> float:
        print("about to " + kind)
        if kind == "fail":
            print("  the last words")
            raise ValueError("failed as asked")
        if kind == "wait":
            try:
                while True:
                    time.sleep(0.05)
            finally:
                print("the last words")
        if kind == "close":
            sys.stdout.flush()
            os.close(1)
            os.close(2)
        if kind == "shut":
            sys.stdout.close()
        return float("nan") if kind == "nan" else 1.0
