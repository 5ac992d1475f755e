from cog import BasePredictor, Input


class Predictor(BasePredictor):
    def predict(
        self,
        text: str = Input(description="What to say back", default="world"),
        repeat: int = Input(description="How often", default=1, ge=1, le=10),
    ) -> str:
        return " ".join([text] * repeat)
