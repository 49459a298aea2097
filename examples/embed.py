"""The studio's service inside a program of your own: the page at /, and requests from scripts.

    pip install "sdic-toolkit[serve]"
    python examples/embed.py [BUNDLE]
    curl -F file=@photo.jpg "localhost:8000/edit?direction=smile&strength=2" --output smile.png

`create_app` is a FastAPI application: add routes to it, or mount it in yours, as it is or in a Guard: yours.mount("/studio", Guard(...)).
docs/studio.md lists its routes, limits and answers.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sdic_runtime.studio.guard import Guard
from sdic_runtime.studio.limits import Limits
from sdic_runtime.studio.server import server
from sdic_runtime.studio.service import create_app

if __name__ == "__main__":
    bundle = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    limits = Limits(upload_bytes=10_000_000, waiting=32)
    server(Guard(create_app([bundle], limits)), limits, host="127.0.0.1", port=8000).run()
