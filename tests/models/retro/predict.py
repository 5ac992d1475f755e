import tempfile
from typing import Optional

import cog
from cog import BasePredictor
from PIL import Image, ImageOps


class Predictor(BasePredictor):
    def setup(self):
        self.sizes = {"small": 16, "large": 64}

    def predict(
        self,
        image: cog.Path = cog.Input(description="A picture"),
        size: str = cog.Input(description="How large it gets", default="small", choices=["small", "large"]),
        turn: int = cog.Input(description="Degrees", default=0, ge=-180, le=180),
        seed: int = cog.Input(description="Not used: a default of None for what is not Optional", default=None),
        caption: Optional[str] = None,
    ) -> cog.Path:
        picture = ImageOps.fit(Image.open(str(image)).convert("L"), (self.sizes[size], self.sizes[size]))
        picture = picture.rotate(turn)
        out = cog.Path(tempfile.mkdtemp()) / "out.png"
        picture.save(str(out))
        return out
