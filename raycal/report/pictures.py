"""The pictures of a run or of a training: PNG files in its folder figures/, and the same in TensorBoard."""
from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

FOLDER = "figures"


def write(folder: str | os.PathLike, figures: Mapping[str, Any], step: int = 0) -> list[pathlib.Path]:
    """Write matplotlib Figures by name to folder/figures/NAME.png, and as images of step to an event file there."""
    from tensorboardX import SummaryWriter

    from raycal.search.folder import write_atomically

    out = pathlib.Path(folder) / FOLDER
    out.mkdir(exist_ok=True)
    paths = []
    with SummaryWriter(str(out), write_to_disk=True) as writer:
        for name, figure in figures.items():
            paths.append(out / f"{name}.png")
            pixels = rendered(figure)
            write_atomically(paths[-1], _png(pixels))
            writer.add_image(name, pixels[..., :3], step, dataformats="HWC")
    return paths


def rendered(figure: Any) -> np.ndarray:
    """Return a Figure as pixels (H, W, 4) uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def encoded(figure: Any) -> bytes:
    """Return a Figure as a PNG."""
    return _png(rendered(figure))


def _png(pixels: np.ndarray) -> bytes:
    import io

    from matplotlib.image import imsave

    out = io.BytesIO()
    imsave(out, pixels, format="png")
    return out.getvalue()
