"""Faces in photographs: found, cut out as the models expect them, and pasted back.

face = find("holiday.jpg")[0]
inversion = pipeline.invert(face.crop)
photograph = face.paste(pipeline.edit(inversion, "smile", strength=2.0).images[0], base=inversion.images[0])
face.photo.save(photograph, "smiling.jpg")
"""

from __future__ import annotations

from sdic_runtime.faces.align import Square
from sdic_runtime.faces.detect import detect
from sdic_runtime.faces.face import Face, find
from sdic_runtime.faces.landmarks import Landmarks
from sdic_runtime.faces.photo import Photo, open_photo, read_photo

__all__ = ["Face", "Landmarks", "Photo", "Square", "detect", "find", "open_photo", "read_photo"]
