"""A float32 graph in the form that ONNX Runtime's CUDA provider runs fastest in half precision with channels last.

The numbers stay the same up to rounding. docs/performance.md says what of it was measured on a GPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdic_export.half.cuda.biases import biases_behind
from sdic_export.half.cuda.blurs import blurs_inside
from sdic_export.half.cuda.encoder import scale_inside, together
from sdic_export.half.cuda.graph import Kept, Rewriting, attributes, no_layer
from sdic_export.half.cuda.heads import batch_heads
from sdic_export.half.cuda.noise import SUMS, add_noise_once
from sdic_export.half.cuda.pictures import read_channels_last
from sdic_export.half.cuda.skips import resize_pictures
from sdic_export.half.cuda.styles import HALF, SINGLE, batch_styles
from sdic_export.half.cuda.volumes import flatten_volumes
from sdic_export.half.precision import Form
from sdic_export.half.typed_graph import infer_shapes

if TYPE_CHECKING:
    import onnx

MOST_GROUPS = 3  # of a convolution that does not matter: RGB
CONVOLUTIONS = ("Conv", "ConvTranspose")
STEPS = (blurs_inside, scale_inside, together, batch_heads, batch_styles, read_channels_last, resize_pictures, add_noise_once)


def cuda_form(model: onnx.ModelProto, kept: Kept = no_layer) -> onnx.ModelProto | None:
    """`model`, whose weights are loaded, in that form; None where channels last would not pay, because a convolution over volumes or of
    many groups is left. Layers that stay float32, as `kept` says, are not mixed with others. `model` itself is left as it is."""
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(model)
    flatten_volumes(made)
    for step in STEPS:
        rewriting = Rewriting(made.graph, kept)
        step(rewriting)
        rewriting.finish()
    if any(_slow(node) for node in made.graph.node):
        return None
    rewriting = Rewriting(made.graph, kept)
    biases_behind(rewriting, infer_shapes(made))
    rewriting.finish()
    return made


def _slow(node: onnx.NodeProto) -> bool:
    """Whether channels last would not pay because of this convolution."""
    found = attributes(node)
    return node.op_type in CONVOLUTIONS and (found.get("group", 1) > MOST_GROUPS or len(found.get("kernel_shape", [])) > 2)


CUDA_FORM = Form(cuda_form, (f"{SINGLE}.*", f"{SUMS}.*"), (f"{HALF}.*",))
