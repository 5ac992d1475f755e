import time

from cog import BaseModel, Input, Path


class TrainingOutput(BaseModel):
    weights: Path
    steps: int


def train(
    data: Path = Input(description="What to learn from"),
    steps: int = Input(description="How often to look at it", default=3, ge=1, le=100),
    delay: float = Input(description="Seconds that a step takes", default=0.0, ge=0),
) -> TrainingOutput:
    text = data.read_text()
    for step in range(steps):
        print(f"step {step}", flush=True)
        time.sleep(delay)
    if "fail" in text:
        raise ValueError("failed as asked")
    with open("seen.txt", "w") as file:
        file.write(text)
    with open("/tmp/learnt.bin", "w") as file:
        file.write(text * steps)
    return TrainingOutput(weights=Path("/tmp/learnt.bin"), steps=steps)
