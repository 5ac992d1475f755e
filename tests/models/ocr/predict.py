from typing import List

from cog import BaseModel, BasePredictor, Input, Path
from rapidocr_onnxruntime import RapidOCR


class Line(BaseModel):
    text: str
    score: float


class Predictor(BasePredictor):
    """Reads the text in a picture, by three neural networks whose weights come inside the package."""

    def setup(self) -> None:
        self.networks = RapidOCR()

    def predict(
        self,
        image: Path = Input(description="A picture with text in it"),
        least: float = Input(description="Leave out what is less certain", default=0.5, ge=0, le=1),
    ) -> List[Line]:
        found, _ = self.networks(str(image))
        return [Line(text=text, score=round(float(score), 3)) for _, text, score in found or [] if score >= least]
