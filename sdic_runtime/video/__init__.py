"""Faces in videos: found, followed, edited and pasted back; the sound and all times stay as they are.

with Pipeline.load("engines/ffhq1024") as pipeline:
    report = edit_video(pipeline, "clip.mp4", "smiling.mp4", "smile", 2.0, Settings(face="largest"))
print(report.ratio)  # flicker of the result over that of the clip
"""

from __future__ import annotations

from sdic_runtime.video.edit import Report, Settings, edit_video
from sdic_runtime.video.smoothing import Smoothing

__all__ = ["Report", "Settings", "Smoothing", "edit_video"]
