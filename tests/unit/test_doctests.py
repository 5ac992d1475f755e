"""The examples in the docstrings are true."""
from __future__ import annotations

import doctest

import cogpredict


def test_every_example_gives_what_it_says() -> None:
    failed, tried = doctest.testmod(cogpredict)
    assert tried > 0
    assert failed == 0
