"""The stage table: every graph of the pipeline with its tensors by name. Everything else derives from it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

HEAD_SIZE = 32  # height and width of the RGB skip that the head hands on
FEATURE_SIZE = 64  # height and width of the layer-7 feature


@dataclass(frozen=True)
class Sizes:
    """The sizes of one model, in the letters of the stage table."""

    resolution: int  # R: height and width of the generator's picture
    working: int  # S: height and width at which e4e, DIPN and DICN work
    rows: int  # L: style rows of a latent code in W+, 2 * log2(R) - 2
    style_width: int  # C: width of one style row
    feature_channels: int  # K: channels of the layer-7 feature

    def shape(self, tensor: str, batch: int) -> tuple[int, ...]:
        """The shape of the tensor called `tensor` for `batch` pictures."""
        letters = {"N": batch, "R": self.resolution, "S": self.working, "L": self.rows, "C": self.style_width, "K": self.feature_channels}
        return tuple(letters[axis] if isinstance(axis, str) else axis for axis in TENSORS[tensor])

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


# Tensor name -> axes. "N" is the dynamic batch axis; the other letters are fields of `Sizes`.
TENSORS: dict[str, tuple[str | int, ...]] = {
    "image": ("N", 3, "S", "S"),
    "latent": ("N", "L", "C"),
    "latent_enhanced": ("N", "L", "C"),
    "feature": ("N", "K", FEATURE_SIZE, FEATURE_SIZE),
    "residual": ("N", "K", FEATURE_SIZE, FEATURE_SIZE),
    "rgb": ("N", 3, HEAD_SIZE, HEAD_SIZE),
    "reconstruction": ("N", 3, "S", "S"),
    "discrepancy": ("N", 3, "S", "S"),
    "picture": ("N", 3, "R", "R"),
}


@dataclass(frozen=True)
class Stage:
    """One graph: its file name and the names of its tensors, in graph order."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("e4e", ("image",), ("latent",)),
        Stage("generator_head", ("latent",), ("feature", "rgb")),
        Stage("generator_preview", ("feature", "rgb", "latent"), ("reconstruction",)),
        Stage("dipn", ("image", "reconstruction"), ("discrepancy",)),
        Stage("dicn", ("discrepancy", "feature", "latent"), ("latent_enhanced", "residual")),
        Stage("generator_tail", ("feature", "residual", "rgb", "latent"), ("picture",)),
    )
}
