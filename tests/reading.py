"""What a program says while it runs."""
from __future__ import annotations

import subprocess


def read_until(child: subprocess.Popen[bytes], words: bytes) -> bytes:
    """What a child has said on stderr when some words have come; it fails where the child ends without them."""
    assert child.stderr
    seen = b""
    while words not in seen:
        piece = child.stderr.read1()
        assert piece, seen
        seen += piece
    return seen
