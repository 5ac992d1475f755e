import asyncio
from typing import AsyncIterator

from cog import BaseRunner, Input


class Runner(BaseRunner):
    """An asynchronous model that yields its output bit by bit."""

    async def setup(self) -> None:
        await asyncio.sleep(0)

    async def run(
        self,
        words: int = Input(description="How many words", default=3, ge=0, le=1000),
        delay: float = Input(description="Seconds before each", default=0.0, ge=0),
    ) -> AsyncIterator[str]:
        for number in range(words):
            await asyncio.sleep(delay)
            yield f"word {number}"
