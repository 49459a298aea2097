"""Sliders on a Gradio page, such as Hugging Face Spaces show. A Space needs this file as app.py and two lines in requirements.txt.

pip install sdic-toolkit gradio
python examples/gradio_app.py [BUNDLE]
"""

from __future__ import annotations

import sys
from typing import Any, TypeAlias

from PIL.Image import Image

from sdic_runtime import Inversion, Pipeline
from sdic_runtime.edit_orders import EditOrder
from sdic_runtime.errors import SdicError
from sdic_runtime.subjects import Reader, Subject, Wishes
from sdic_runtime.tools.list_directions import listed

Kept: TypeAlias = tuple[Subject, Inversion]


class App:
    def __init__(self, bundle: str | None = None) -> None:
        self.pipeline = Pipeline.load(bundle)
        manifest = self.pipeline.bundle.manifest
        self.reader = Reader(manifest, Wishes(crop=manifest.faces is None))
        self.edits = [item for item in listed(self.pipeline.bundle) if item.components is None]

    def invert(self, picture: str) -> Kept:
        """The picture, or its largest face, inverted: once, for all edits."""
        subject = self.reader.read(picture, "the picture")
        return subject, self.pipeline.invert(subject.pictures[0])

    def edit(self, kept: Kept, *strengths: float) -> Image:
        """The edited picture, with a face back in its photograph; a strength for each of `edits`."""
        (subject, inversion), parts = kept, tuple((item.name, value) for item, value in zip(self.edits, strengths, strict=True) if value)
        order = EditOrder(parts).edit(self.pipeline.bundle, self.pipeline.directions) if parts else None
        images = self.pipeline.edit(inversion, order).images if order else inversion.images
        return subject.pasted(images, inversion.images) if subject.whole else images[0]


def page(app: App) -> Any:
    """The Gradio page."""
    import gradio

    def said(kept: Kept | None, picture: str | None, *strengths: float) -> tuple[Kept | None, Image | None]:
        try:
            kept = kept or (app.invert(picture) if picture else None)
            return kept, app.edit(kept, *strengths) if kept else None
        except SdicError as error:
            raise gradio.Error(str(error)) from error

    with gradio.Blocks(title="SDIC", analytics_enabled=False) as blocks:
        kept = gradio.State()
        with gradio.Row():
            picture, edited = gradio.Image(type="filepath", label="picture"), gradio.Image(label="edited", format="png", interactive=False)
        sliders = [gradio.Slider(*(item.strength_range or (-3, 3)), value=0, label=item.name) for item in app.edits]
        picture.change(lambda: None, outputs=kept).then(said, [kept, picture, *sliders], [kept, edited])
        for slider in sliders:
            slider.release(said, [kept, picture, *sliders], [kept, edited])
    return blocks


if __name__ == "__main__":
    page(App(*sys.argv[1:])).launch()
