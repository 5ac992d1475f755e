import hashlib
import os
import shutil
import tempfile
from typing import List, Optional

from cog import BasePredictor, Input, Path


class Predictor(BasePredictor):
    def predict(
        self,
        file: Optional[Path] = Input(description="A file of any size", default=None),
        answer: str = Input(description="What to say of it", default="size", choices=["size", "sha256", "copy"]),
        size: int = Input(description="Bytes of each file to make", default=0, ge=0),
        count: int = Input(description="How many files to make", default=1, ge=0),
        suffix: str = Input(description="How their names end", default=".bin"),
    ) -> List[Path]:
        """With a file: one that tells of it, or a copy. Without: `count` files of `size` bytes."""
        folder = tempfile.mkdtemp()
        if file is not None:
            return [Path(tell(str(file), str(getattr(answer, "value", answer)), folder))]
        return [Path(make(os.path.join(folder, f"part{n}{suffix}"), size, n)) for n in range(count)]


def tell(source, answer, folder):
    if answer == "copy":
        return shutil.copyfile(source, os.path.join(folder, os.path.basename(source)))
    told = f"{os.path.getsize(source)} {os.path.basename(source)}"
    if answer == "sha256":
        digest = hashlib.sha256()
        with open(source, "rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
        told += " " + digest.hexdigest()
    target = os.path.join(folder, "answer.txt")
    with open(target, "w") as file:
        file.write(told + "\n")
    return target


def make(path, size, seed):
    """A file whose every 64 KiB block is the same 64 KiB, which the seed decides."""
    block = hashlib.sha256(b"%d" % seed).digest() * 2048
    with open(path, "wb") as file:
        for _ in range(size // len(block)):
            file.write(block)
        file.write(block[: size % len(block)])
    return path
