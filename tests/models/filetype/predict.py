from cog import BaseModel, BasePredictor, Input, Path
from magika import Magika


class Output(BaseModel):
    label: str
    description: str
    score: float


class Predictor(BasePredictor):
    """Tells what a file is, by a neural network whose weights come inside the package."""

    def setup(self) -> None:
        self.network = Magika()

    def predict(self, file: Path = Input(description="Any file")) -> Output:
        found = self.network.identify_path(str(file))
        return Output(label=found.output.label, description=found.output.description, score=round(found.score, 3))
