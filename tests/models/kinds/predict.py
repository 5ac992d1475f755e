import json
from typing import List, Optional

from cog import BasePredictor, Input, Path, Secret


class Predictor(BasePredictor):
    def predict(
        self,
        needed: str = Input(description="Has no default"),
        text: str = Input(description="A line", default="a", min_length=1, max_length=1000, regex="^[^!]*$"),
        count: int = Input(description="A whole number", default=0),
        scale: float = Input(description="From 0 to 1", default=0.5, ge=0, le=1),
        flag: bool = Input(description="Yes or no", default=False),
        mode: str = Input(description="One of two words", default="fast", choices=["fast", "good"]),
        level: int = Input(description="One of three numbers", default=1, choices=[1, 2, 3]),
        words: List[str] = Input(description="Several", default=["x"]),
        numbers: List[int] = Input(description="Several numbers", default=[1]),
        file: Optional[Path] = Input(description="A file", default=None),
        secret: Optional[Secret] = Input(description="Not to be shown", default=None),
    ) -> str:
        """Everything that came in, as JSON; of a file its name and size, of a secret its length."""
        size = file and len(file.read_bytes())
        return json.dumps({
            "needed": needed, "text": text, "count": count, "scale": scale, "flag": flag,
            "mode": str(getattr(mode, "value", mode)), "level": int(getattr(level, "value", level)), "words": words,
            "numbers": numbers, "file": file and [file.name, size], "secret": secret and len(secret.get_secret_value()),
        })
