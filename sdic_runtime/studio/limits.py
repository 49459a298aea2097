"""What one client can cost the studio."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """`upload_bytes`, `upload_seconds`, `pixels`: of one upload. `body_bytes`: of any other body, for which `upload_seconds` holds too.
    `uploads`: at the same time. `header_seconds`: until the head of a request
    is complete. `waiting`: requests that may wait for the pipeline; `seconds`: how long each. `kept`, `kept_bytes`, `lifetime`: pictures
    and inversions in memory, their bytes, and the seconds without use after which one is forgotten. `batch`: inversions that wait are
    computed so many at once. `parts`: edits in one picture. `frames`: pictures in a strip or an animation. `stop_seconds`: what was
    accepted is answered within them when the service is told to stop."""

    upload_bytes: int = 20_000_000
    upload_seconds: float = 10.0
    body_bytes: int = 65_536
    pixels: int = 25_000_000
    uploads: int = 16
    header_seconds: float = 10.0
    waiting: int = 64
    seconds: float = 60.0
    kept: int = 256
    kept_bytes: int = 2_000_000_000
    lifetime: float = 1800.0
    batch: int = 8
    parts: int = 16
    frames: int = 15
    stop_seconds: float = 5.0
