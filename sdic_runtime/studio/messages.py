"""What clients send as JSON."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(min_length=1, max_length=100)]
Strength = Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)]


Number = Annotated[int | None, Field(ge=1, le=1000)]  # of a face


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ToInvert(Message):
    """`face`: which, from 1 by size; the largest when omitted. `crop`: a picture that is taken whole is cropped instead of squashed.
    `aligned`: the picture is a crop of a face already, and is taken whole."""

    bundle: Name | None = None
    face: Number = None
    crop: bool = False
    aligned: bool = False


class Part(Message):
    name: Name
    strength: Strength = 1.0


class ToEdit(Message):
    """`slot`: of the slider that this belongs to; the newest request of a slot wins."""

    edits: list[Part] = []
    move: Name | None = None
    paste: Literal["", "difference", "replace"] = ""
    format: Literal["png", "jpeg", "webp"] = "png"
    slot: Name | None = None


class ToSweep(ToEdit):
    """A strip or an animation: `edits`, and with them `swept` at each of the strengths."""

    swept: Name
    strengths: Annotated[list[Strength], Field(min_length=1)]
