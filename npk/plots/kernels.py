"""Kernels as pictures: one with its colour bar, or many in a grid, their samples ordered by class."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import ArrayLike

from npk.plots.style import INK, WIDTH, panels, plain

_LETTER = 0.14  # inches that a name on an axis takes


def kernel(
    K: ArrayLike,  # noqa: N803 (the papers' name)
    labels: ArrayLike | None = None,
    *,
    class_names: Sequence[str] | None = None,
    title: str = "",
    width: float = 4.2,
) -> Figure:
    """One kernel: its samples ordered by class, the classes' boundaries marked, red above zero, blue below.

    Colours end at the 99th percentile of absolute entries, as in `heatmaps`; the bar points on where entries do.

    Args:
        K: of shape (N, N), of NumPy or of JAX.
        labels: the class of every sample, numbers or words in any order, of shape (N,); None keeps the samples' order.
        class_names: names of the classes by number; None for the labels themselves.
        title: above the kernel.
        width: of the figure, in inches.

    Returns:
        The figure.

    Raises:
        ValueError: K is not square, empty, complex or not finite; there is not one label a sample, or not one name a
            class; names without labels.

    Example:
        >>> import numpy as np
        >>> from npk import plots
        >>> figure = plots.kernel(np.eye(4), [1, 0, 1, 0], class_names=["a", "b"])
        >>> [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
        ['a', 'b']
    """
    matrix = _matrix(K)
    starts, middles, names = np.zeros(1, int), [], []
    if labels is not None:
        values = np.asarray(labels)
        if values.shape != matrix.shape[:1]:
            raise ValueError(f"labels must have shape [{len(matrix)}], one a sample, got {list(values.shape)}.")
        order = np.argsort(values, kind="stable")
        matrix, values = matrix[np.ix_(order, order)], values[order]
        starts, middles = _classes(values)
        names = _names(values[starts], class_names)
    elif class_names is not None:
        raise ValueError("class_names are names of labels: give labels too.")
    with panels(width, 0.82 * width) as (figure, ((axes,),)):
        image = _panel(axes, matrix, starts, len(matrix), INK, min(0.6, 6 / len(starts)))
        every = math.ceil(len(names) * _LETTER / (0.7 * width)) or 1
        axes.set_xticks(middles[::every], names[::every], rotation=90 if max(map(len, names), default=0) > 2 else 0)
        axes.set_yticks(middles[::every], names[::every])
        axes.tick_params(length=0, labelsize=7)
        axes.set_title(title, loc="left")
        _bar(figure, image, axes, matrix)
    return figure


def _matrix(value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.ndim != 2 or array.shape[0] != array.shape[1] or array.size == 0:
        raise ValueError(f"K must be square [N, N] and not empty, got shape {list(array.shape)}.")
    if np.iscomplexobj(array):
        raise ValueError(f"K must be real, got {array.dtype}.")
    array = array.astype(float)
    if not np.isfinite(array).all():
        raise ValueError(f"K must be finite; {int((~np.isfinite(array)).sum())} of its entries are NaN or infinite.")
    return array


def _names(classes: np.ndarray, class_names: Sequence[str] | None) -> list[str]:
    if class_names is None:
        return [str(label) for label in classes]
    if classes.dtype.kind not in "iu" or classes.min() < 0 or classes.max() >= len(class_names):
        raise ValueError(f"labels must be numbers of the {len(class_names)} class_names, got {classes.tolist()}.")
    return [plain(class_names[int(label)]) for label in classes]


def attribution(image: ArrayLike, parts: ArrayLike, *, title: str = "", width: float = 4.6) -> Figure:
    """An image beside what each of its pixels gives an output: red what speaks for it, blue what speaks against it.

    Colours end at the 99th percentile of absolute numbers; the bar points on where numbers do.

    Args:
        image: of shape (H, W), (H, W, 1) or (H, W, 3); shown from its least number to its largest.
        parts: of shape (H, W), or (H, W, C), of which the sum over channels is shown; as of `npk.attribute`.
        title: above both.
        width: inches.

    Returns:
        The figure.

    Raises:
        ValueError: the two are not of one height and width, or hold numbers that are not finite.

    Example:
        >>> import numpy as np
        >>> from npk import plots
        >>> figure = plots.attribution(np.eye(4), np.eye(4) - 0.5)
        >>> len(figure.axes)
        3
    """
    pixels, given = np.asarray(image, dtype=float), np.asarray(parts, dtype=float)
    given = given.sum(-1) if given.ndim == 3 else given
    plain = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels
    if (
        given.ndim != 2
        or plain.ndim not in (2, 3)
        or plain.shape[:2] != given.shape
        or plain.shape[2:] not in ((), (3,))
    ):
        raise ValueError(f"image and parts must be [H, W], or of channels, got {pixels.shape} and {np.shape(parts)}.")
    if not (np.isfinite(plain).all() and np.isfinite(given).all()):
        raise ValueError("image and parts must be finite.")
    low, high = plain.min(), plain.max()
    with panels(width, 0.5 * width, 1, 2) as (figure, ((left, right),)):
        left.imshow((plain - low) / ((high - low) or 1), cmap="gray", interpolation="none")
        bound = _bound(given)
        shown = right.imshow(given, cmap="RdBu_r", vmin=-bound, vmax=bound, interpolation="none")
        for axes in (left, right):
            axes.set(xticks=[], yticks=[])
            axes.grid(visible=False)
            axes.spines[:].set_visible(False)
        left.set_title(title, loc="left")
        _bar(figure, shown, right, given)
    return figure


def _bar(figure: Figure, image: AxesImage, axes: Axes, values: np.ndarray) -> None:
    """A colour bar of what there is, pointing on where values go on."""
    bound, low, high = image.get_clim()[1], float(values.min()), float(values.max())
    ends = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
    bar = figure.colorbar(image, ax=axes, extend=ends[low < -bound, high > bound], shrink=0.9, pad=0.02)
    bar.ax.set_ylim(-bound if low < 0 else 0, bound if high > 0 or low >= 0 else 0)
    bar.ax.tick_params(length=2, labelsize=7)
    bar.outline.set_visible(False)  # type: ignore[union-attr]


def heatmaps(
    rows: Mapping[str, Sequence[ArrayLike]], labels: ArrayLike, *, columns: Sequence[str], class_names: Sequence[str]
) -> Figure:
    """A grid of symmetric matrices whose samples are ordered by class, red above zero, blue below.

    Each panel has its own scale, which stands below it: the 99th percentile of its absolute entries. Compare patterns,
    not sizes.

    Args:
        rows: name → matrices, one a column, each of shape (N, N).
        labels: class numbers in ascending order, of shape (N,).
        columns: names of the columns.
        class_names: names of the classes, by number.

    Returns:
        The figure.

    Raises:
        ValueError: the labels are not in ascending order, or a matrix is not [N, N].

    Example:
        >>> import numpy as np
        >>> from npk import plots
        >>> figure = plots.heatmaps({"K": [np.eye(4)]}, [0, 0, 1, 1], columns=["stage 0"], class_names=["a", "b"])
        >>> [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
        ['a', 'b']
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or (np.diff(labels) < 0).any():
        raise ValueError("labels must be class numbers in ascending order: sort the samples by class first.")
    starts, middles = _classes(labels)
    names = [plain(class_names[int(label)]) for label in labels[starts]]
    side = (WIDTH - 0.6) / max(len(columns), 3)
    every = math.ceil(len(names) * _LETTER / side)
    with panels(side * len(columns) + 0.6, (side + 0.2) * len(rows) + 0.7, len(rows), len(columns)) as (figure, grid):
        for i, (name, matrices) in enumerate(rows.items()):
            for j, matrix in enumerate(matrices):
                axes, values = grid[i, j], np.asarray(matrix, dtype=float)
                image = _panel(axes, values, starts, len(labels))
                axes.set_xticks(middles[::every], names[::every] if i == len(rows) - 1 else [])
                axes.set_yticks(middles[::every], names[::every] if j == 0 else [])
                axes.set_xlabel(f"±{_few(_bound(values))}", fontsize=7, labelpad=2)
                if i == 0:
                    axes.set_title(columns[j], loc="center", fontsize=9)
            grid[i, 0].set_ylabel(name)
        crowded = max(map(len, names)) > 2
        for axes in grid.flat:
            axes.tick_params(length=0, labelsize=6 if len(names) > 4 else 7)
            axes.tick_params(axis="x", rotation=90 if crowded and len(names) > 4 else 0)
            axes.tick_params(axis="y", rotation=90 if crowded and len(names) <= 4 else 0)
        bar = figure.colorbar(image, ax=grid, location="bottom", shrink=0.6, aspect=30, pad=0.02)
        low, high = image.get_clim()
        bar.set_ticks([low, 0, high], labels=["−", "0", "+"])
        bar.ax.tick_params(length=0, labelsize=8)
        bar.outline.set_visible(False)  # type: ignore[union-attr]
    return figure


def _classes(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each class of labels in order begins, and its middle."""
    starts = np.searchsorted(labels, np.unique(labels))
    return starts, (starts + np.append(starts[1:], len(labels))) / 2 - 0.5


def _bound(matrix: np.ndarray) -> float:
    """The entry that has the strongest colour."""
    return float(np.percentile(np.abs(matrix), 99)) or float(np.abs(matrix).max()) or 1.0


def _few(value: float) -> str:
    """Two digits, and no powers of ten where they can be written out."""
    return f"{float(f'{value:.2g}'):,.0f}" if 100 <= value < 1e6 else f"{value:.2g}"


def _panel(
    axes: Axes, matrix: np.ndarray, starts: np.ndarray, size: int, color: str = "#8a8f98", linewidth: float = 0.35
) -> AxesImage:
    if matrix.shape != (size, size):
        raise ValueError(f"each matrix must be [{size}, {size}], one row a label, got shape {list(matrix.shape)}.")
    bound = _bound(matrix)
    image = axes.imshow(matrix, cmap="RdBu_r", vmin=-bound, vmax=bound, interpolation="none")
    for start in starts[1:]:
        axes.axhline(start - 0.5, color=color, linewidth=linewidth)
        axes.axvline(start - 0.5, color=color, linewidth=linewidth)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    return image
