import time

from cog import BasePredictor, ConcatenateIterator, Input


class Predictor(BasePredictor):
    def predict(
        self,
        text: str = Input(description="Words to give back one by one", default="one two three"),
        delay: float = Input(description="Seconds before each", default=0.0, ge=0),
        fail_after: int = Input(description="Fail after so many words; -1: do not", default=-1),
        talk: bool = Input(description="Print a line before each", default=False),
    ) -> ConcatenateIterator[str]:
        for number, word in enumerate(text.split(" ")):
            if talk:
                print(f"next: {word}")
            if number == fail_after:
                raise ValueError("failed as asked")
            time.sleep(delay)
            yield word if number == 0 else " " + word
