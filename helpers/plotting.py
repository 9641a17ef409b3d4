"""One look for every figure of the suite: colour-blind safe, readable in print, the same bytes for the same data."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageFile

from helpers import settings
from helpers.files import write_atomically

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # a home that is not writable, or new fonts, are no failure of a notebook

import matplotlib

matplotlib.use("Agg")  # figures are saved and shown as PNG: no window, no backend-dependent bytes

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Tick
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.textpath import TextPath

logging.getLogger("matplotlib").setLevel(logging.NOTSET)

# Okabe and Ito's palette: distinct for the common kinds of colour blindness and in grey.
BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE, YELLOW, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442", "#000000",
)
COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, YELLOW, BLACK)
DIGIT_COLOURS = plt.get_cmap("tab10").colors  # ten classes need ten colours
DENSITY_MAP = "cividis"
TITLE_SIZE, EDGE = 10, 6  # points; pixels that a text may lie beyond the edge of a figure, for its box is larger than its letters
MOST_COLOURS = 4096  # of a plot, edges of letters and lines included; photographs have more
MOST_ERROR = 6.0  # of 255, root mean square: what a palette may change of a photograph; it is not seen at the size shown
PIL.ImageFile.MAXBLOCK = 2**22  # an optimised JPEG has to fit into one block, which older versions of Pillow take too small
PALETTE_PIXELS = 20000  # of photographs, from which their palette is made
TIME_MAP = matplotlib.colors.ListedColormap(plt.get_cmap("Blues")(np.linspace(0.5, 1.0, 256)), name="time")  # nothing pale

plt.rcParams.update({
    "figure.dpi": 100, "savefig.dpi": 130, "figure.constrained_layout.use": True, "font.size": 9, "axes.titlesize": 10,
    "axes.grid": True, "grid.alpha": 0.25, "grid.linewidth": 0.5, "axes.spines.top": False, "axes.spines.right": False,
    "axes.prop_cycle": matplotlib.cycler(color=COLOURS), "lines.linewidth": 1.4, "legend.frameon": False,
    "image.interpolation": "nearest", "savefig.facecolor": "white",
})


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG (the same bytes for the same figure), show it in a notebook, and close it."""
    drawn = show(figure)
    write_atomically(path, lambda stream: stream.write(drawn.getvalue()))


def show(figure: Figure) -> io.BytesIO:
    """Show a figure in a notebook and close it, without a file: for pictures that no record stands behind. Returns the PNG."""
    picture = _drawn(figure)
    kept = settings.profile() == "full"  # what small profiles draw is looked at once
    packed = _packed(picture, lines=any(axis.lines or axis.collections for axis in figure.axes), spare=kept)
    _show_in_notebook(picture, packed, round(100 * figure.get_figwidth()))
    return packed


def _drawn(figure: Figure) -> PIL.Image.Image:
    """The pixels of a figure, which is closed; ``savefig`` would draw it twice, the first time for the layout alone."""
    figure.set_dpi(plt.rcParams["savefig.dpi"])
    figure.set_facecolor(plt.rcParams["savefig.facecolor"])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    if settings.profile() == "smoke":  # where notebooks are tested
        for text in cut_off(figure):
            print(f"cut off at the edge of its figure: {text!r}")
    plt.close(figure)
    return PIL.Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _packed(picture: PIL.Image.Image, *, lines: bool = False, spare: bool = True) -> io.BytesIO:
    """A PNG of a picture, with a palette where that looks the same, as it does for nearly all: a third for photographs.

    Args:
        picture: in RGB.
        lines: whether there are curves or points beside the photographs; their colours are rare and matter.
        spare: bytes rather than time: for figures that are kept. Else photographs have no palette.
    """
    packed, few = io.BytesIO(), picture.getcolors(MOST_COLOURS) is not None
    if few or spare:
        fitted = _of_one_palette(picture, few, lines)
        if few or _difference(picture, fitted) < MOST_ERROR:
            picture = fitted
    picture.save(packed, format="png", optimize=spare)
    return packed


def _difference(picture: PIL.Image.Image, fitted: PIL.Image.Image) -> float:
    """The root mean square of what a palette changes, of 255."""
    return np.sqrt(np.square(np.subtract(picture, fitted.convert("RGB"), dtype=np.float32)).mean())


def _of_one_palette(picture: PIL.Image.Image, few: bool, lines: bool) -> PIL.Image.Image:
    """A picture in 256 colours, of photographs by k-means; on a part of the pixels where no thin line would be lost."""
    way = {"method": PIL.Image.Quantize.MEDIANCUT, "dither": PIL.Image.Dither.NONE, "kmeans": 0 if few else 4}
    if few or lines:
        return picture.quantize(256, **way)
    pixels = np.asarray(picture)
    part = pixels.reshape(-1, 3)[:: max(1, pixels.size // (3 * PALETTE_PIXELS)) | 1]  # an odd step meets every column
    palette = PIL.Image.fromarray(part[None]).quantize(255, **way)
    palette.putpalette(np.append(np.uint8([255] * 3), np.uint8(palette.getpalette("RGB"))).tobytes())
    places = np.array(picture.quantize(palette=palette, dither=PIL.Image.Dither.NONE))
    places[(pixels == 255).all(axis=-1)] = 0  # the paper stays white: Pillow looks colours up in steps of four
    fitted = PIL.Image.fromarray(places)
    fitted.putpalette(palette.getpalette("RGB"))
    return fitted


def _show_in_notebook(picture: PIL.Image.Image, packed: io.BytesIO, width: int) -> None:
    """Show a packed PNG; of photographs a JPEG at the size shown, where that is smaller: they would swell a saved notebook."""
    try:
        from IPython import get_ipython
        from IPython.display import Image, display
    except ImportError:
        return
    if get_ipython() is None:
        return
    kind, shown, photograph = "png", packed, io.BytesIO()
    if picture.getcolors(MOST_COLOURS) is None:
        size = width, round(picture.height * width / picture.width)
        picture.resize(size, PIL.Image.Resampling.LANCZOS).save(photograph, "jpeg", quality=80, subsampling=0, optimize=True)
        if len(photograph.getvalue()) < len(packed.getvalue()):
            kind, shown = "jpeg", photograph
    display(Image(shown.getvalue()), metadata={f"image/{kind}": {"width": width}})


def title(figure: Figure, text: str, *records) -> None:
    """Title of a figure, followed by what must be said of its records: stand-in data, a cut budget, a small profile.

    Lines that are longer than the figure is wide are broken.
    """
    remarks = list(dict.fromkeys(record.remark for record in records if record.remark))
    width = figure.bbox.width / figure.dpi
    lines = [line for part in (text, *remarks) for whole in part.split("\n") for line in _broken(whole, width)]
    figure.suptitle("\n".join(lines), fontsize=TITLE_SIZE)


def _broken(text: str, inches: float) -> list[str]:
    """A line of a title in lines of at most so many inches, broken between words; one with a formula is left whole."""
    lines: list[str] = []
    for word in [text] if "$" in text else text.split(" "):
        longer = f"{lines[-1]} {word}" if lines else ""
        if lines and TextPath((0, 0), longer, size=TITLE_SIZE).get_extents().width / 72 <= inches:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def cut_off(figure: Figure) -> list[str]:
    """The texts of a drawn figure that run over its edge; of the numbers at an axis those beyond it are not drawn."""
    numbers = {label for tick in figure.findobj(Tick) for label in (tick.label1, tick.label2)}
    edge = figure.bbox.padded(EDGE)
    texts = [text for text in figure.findobj(Text) if text not in numbers and text.get_visible() and text.get_text().strip()]
    return [text.get_text() for text in texts if not all(edge.contains(*corner) for corner in text.get_window_extent().corners())]


def smoothed(values: np.ndarray, points: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Means over consecutive minibatches, so that a curve of many has at most about twice ``points`` points.

    Args:
        values: (steps, ...) one row a step.

    Returns:
        (P,) the step in the middle of each mean, and (P, ...) the means; a last incomplete group is left out.
    """
    group = max(1, len(values) // points)
    whole = len(values) // group * group
    means = values[:whole].reshape(-1, group, *values.shape[1:]).mean(1)
    return (np.arange(len(means)) + 0.5) * group, means


def training_curves(axis: Axes, train: np.ndarray, test: np.ndarray, test_steps: np.ndarray, *, names: Sequence[str],
                    per_epoch: int, bound: float | None = None, bound_label: str = "entropy of the data",
                    points: int = 200, xlabel: str = "epoch", ylabel: str = "nats") -> None:
    """Training terms per minibatch (pale) and test terms per evaluation (strong), with a known bound as a line.

    Args:
        axis: where to draw.
        train: (steps, T) terms per minibatch.
        test: (E, T) terms per evaluation.
        test_steps: (E,) steps after which they were made.
        names: T names.
        per_epoch: steps an epoch.
        bound: value that the first term cannot beat.
        points: of the training curve, see :func:`smoothed`.
    """
    steps, means = smoothed(train, points)
    for index, name in enumerate(names):
        axis.plot(steps / per_epoch, means[:, index], color=COLOURS[index], alpha=0.3, linewidth=0.8)
        axis.plot(test_steps / per_epoch, test[:, index], color=COLOURS[index], marker="o", markersize=2.5, label=f"{name}, test")
    axis.plot([], [], color="grey", alpha=0.5, label="train, minibatches")
    if bound is not None:
        axis.axhline(bound, color=BLACK, linestyle="--", linewidth=0.9, label=f"{bound_label}: {bound:.3f}")
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.legend(fontsize=8)


def focus(axis: Axes, *curves: np.ndarray, margin: float = 0.1, skip: float = 0.05) -> None:
    """Set the y limits to where the curves live after their first ``skip`` share, so that the start does not flatten all."""
    values = np.concatenate([np.ravel(curve[int(len(curve) * skip) :]) for curve in curves])
    low, high = np.percentile(values, [0.5, 99.5])
    axis.set_ylim(low - margin * (high - low), high + margin * (high - low))


def scatter(axis: Axes, points: np.ndarray, *, label: str | None = None, colour: str = BLUE, size: float = 3,
            alpha: float = 0.5) -> None:
    """Points in the plane, (N, 2), with equal axes."""
    axis.scatter(points[:, 0], points[:, 1], s=size, alpha=alpha, color=colour, linewidths=0, label=label, rasterized=True)
    axis.set_aspect("equal", adjustable="box")


def scatter_classes(axis: Axes, points: np.ndarray, labels: np.ndarray, *, size: float = 2, alpha: float = 0.5,
                    colours: Sequence = DIGIT_COLOURS) -> None:
    """Points in the plane coloured by class, with a legend; points (N, 2), labels (N,) of integers."""
    for label in np.unique(labels):
        rows = points[labels == label]
        axis.scatter(rows[:, 0], rows[:, 1], s=size, alpha=alpha, color=colours[int(label)], linewidths=0, label=str(label))
    axis.legend(markerscale=12 / max(size, 1) ** 0.5 / 2, fontsize=8, ncols=2)
    axis.set_aspect("equal", adjustable="box")


def tile(images: np.ndarray, columns: int, *, gap: int = 2, background: float = 1.0) -> np.ndarray:
    """One picture of many: images (N, H, W) or (N, H, W, 3) in [0, 1] or uint8, row by row, as floats in [0, 1]."""
    if images.dtype == np.uint8:
        images = images / 255.0
    if images.ndim == 3:
        images = images[..., None].repeat(3, axis=-1)
    number, height, width, _ = images.shape
    rows = -(-number // columns)
    picture = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), background)
    for index, image in enumerate(np.clip(images, 0.0, 1.0)):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        picture[top : top + height, left : left + width] = image
    return picture


def show_image(axis: Axes, picture: np.ndarray, heading: str = "") -> None:
    """A picture (H, W, 3) without axes."""
    axis.imshow(picture, cmap="gray", vmin=0, vmax=1)
    axis.set_axis_off()
    axis.set_title(heading)


def image_grid(images: np.ndarray, columns: int, heading: str, *records, width: float = 6.0) -> Figure:
    """A figure of a grid of images, with its title and the remarks of its records."""
    picture = tile(images, columns)
    lines = 1 + sum(bool(record.remark) for record in records)
    figure, axis = plt.subplots(figsize=(width, width * picture.shape[0] / picture.shape[1] + 0.25 * lines))
    show_image(axis, picture)
    title(figure, heading, *records)
    return figure


def path_3d(axis: Axes, path: np.ndarray, *, names: Sequence[str], target: Mapping[str, Sequence[float]] | None = None) -> None:
    """A path (N, 3) in space, from light to dark blue: its start marked, a target drawn, all of it named for a legend."""
    from mpl_toolkits.mplot3d.art3d import Line3DCollection

    segments = np.stack([path[:-1], path[1:]], axis=1)
    lines = Line3DCollection(segments, cmap=TIME_MAP, linewidth=0.8)
    lines.set_array(np.arange(len(segments)))
    axis.add_collection(lines)
    for place, label in ((0.0, "first steps"), (1.0, "last steps")):
        axis.plot([], [], [], color=TIME_MAP(place), label=label)
    axis.scatter(*path[0], color=VERMILION, s=25, label="start")
    if target is not None:
        axis.plot(*(target[name] for name in names), color=BLACK, linestyle="--", marker="*", markersize=8, label="target")
    low, high = path.min(0), path.max(0)
    pad = 0.05 * np.maximum(high - low, 1e-6)
    limits = np.stack([low - pad, high + pad], axis=1)
    axis.set(xlim=limits[0], ylim=limits[1], zlim=limits[2], xlabel=names[0], ylabel=names[1], zlabel=names[2])
