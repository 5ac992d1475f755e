import os
import tempfile
from typing import List

from cog import BaseModel, BasePredictor, Input, Path


class Part(BaseModel):
    name: str
    file: Path


class Output(BaseModel):
    text: str
    score: float
    file: Path
    parts: List[Part]


class Predictor(BasePredictor):
    def predict(
        self,
        text: str = Input(description="What the files hold", default="hello"),
        parts: int = Input(description="How many parts", default=2, ge=0, le=100),
    ) -> Output:
        folder = tempfile.mkdtemp()
        inner = [Part(name=f"part {n}", file=write(folder, f"part{n}.txt", f"{text} {n}")) for n in range(parts)]
        return Output(text=text, score=0.5, file=write(folder, "whole.txt", text), parts=inner)


def write(folder, name, text):
    path = os.path.join(folder, name)
    with open(path, "w") as file:
        file.write(text)
    return Path(path)
