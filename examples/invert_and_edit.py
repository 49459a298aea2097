"""Invert a picture once, edit it several times:  python examples/invert_and_edit.py PICTURE BUNDLE DIRECTION..."""

from __future__ import annotations

import sys
from pathlib import Path

from sdic_runtime import Pipeline

picture, bundle, *directions = sys.argv[1:]
name = Path(picture).stem
pipeline = Pipeline.load(bundle)
inversion = pipeline.invert(picture)
inversion.images[0].save(f"{name}-inverted.png")
inversion.save(f"{name}.safetensors")  # Inversion.load brings it back
for direction in directions:
    edited = pipeline.edit(inversion, direction, strength=[-2, 2])
    for word, image in zip(("less", "more"), edited.images, strict=True):
        image.save(f"{name}-{word}-{direction}.png")
