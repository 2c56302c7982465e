"""What a program wrote to a terminal: read whole, as a terminal hands it over in pieces."""

from __future__ import annotations

import os


def written(ours: int) -> str:
    """All that was written to the other end, which is closed or will be. Closes this end."""
    text = b""
    try:
        while piece := os.read(ours, 9999):
            text += piece
    except OSError:  # Linux: the other end is closed
        pass
    os.close(ours)
    return text.decode()
