"""What the script of a study's page draws and counts: kernels of some samples at some stages, images, and gates.

Matrices are symmetric, so that rows up to the diagonal travel, one after another. The path kernel has 16 bits an entry,
of its own range at each stage; the others, centred, 8 bits, of the colours' range.
"""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import PIL.Image

from npk import solving
from npk.studies.run_folder import run_arrays

_STAGES = 7
_GATES = 300_000  # bytes: more gates than these do not travel with a page
_COLORS, _FINE = 255, 65535
_KERNELS = {"npk": "H", "value": "Kⱽ", "feature": "Kᶠ", "cross": "Kᶜʳᵒˢˢ"}
_SPRITES = 20  # images in a row


def explored(study: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The data of the page's script."""
    samples, count = run_arrays(folder, study, "samples.npz"), len(study["stages"])
    stages = sorted({round(i) for i in np.linspace(0, count - 1, min(_STAGES, count))})
    shown = samples["shown"]
    labels = samples["train_labels"][shown]
    palette = matplotlib.colormaps["RdBu_r"](np.arange(_COLORS) / (_COLORS - 1), bytes=True)[:, :3]
    found: dict[str, Any] = {
        "stages": [study["names"][stage] for stage in stages],
        "accuracies": [f"{study['stages'][stage]['train_accuracy']:.0%}" for stage in stages],
        "classes": [study["data"]["class_names"][label] for label in labels],
        "starts": np.searchsorted(labels, np.unique(labels)).tolist(),
        "names": {},
        "palette": palette.tobytes().hex(),
        "kernels": [],
        "gates": None,
        "images": _sprites(samples["thumbnails"][: len(shown)]) if "thumbnails" in samples else None,
    }
    packed = []
    for stage in stages:
        arrays = run_arrays(folder, study, f"kernels/stage-{stage}.npz")
        found["kernels"].append(_of_stage(arrays, shown))
        packed.append({name: arrays[name] for name in arrays if name.startswith("open/") or name == "units"})
    found["names"] = {name: label for name, label in _KERNELS.items() if name in found["kernels"][0]}
    if all("units" in one for one in packed) and sum(p.nbytes for one in packed for p in one.values()) <= _GATES:
        found["gates"] = {
            "units": packed[0]["units"].tolist(),
            "stages": [[_text(one[f"open/{layer}"]) for layer in range(len(one["units"]))] for one in packed],
        }
    return found


def _of_stage(arrays: Mapping[str, np.ndarray], shown: np.ndarray) -> dict[str, Any]:
    square, lower = np.ix_(shown, shown), np.tril_indices(len(shown))
    own = arrays["npk"][square].astype(np.float64)
    low, high = float(own.min()), float(own.max())
    steps = np.rint((own[lower] - low) / ((high - low) or 1) * _FINE).astype("<u2")
    found: dict[str, Any] = {"values": _text(steps), "low": low, "high": high}
    for name in _KERNELS:
        if not arrays[name].any():
            continue
        centred = solving.center(arrays[name][square].astype(np.float64))
        bound = float(np.percentile(np.abs(centred), 99)) or 1.0
        colors = np.rint((np.clip(centred[lower] / bound, -1, 1) + 1) / 2 * (_COLORS - 1)).astype(np.uint8)
        found[name] = {"colors": _text(colors), "bound": bound}
    return found


def _sprites(images: np.ndarray) -> dict[str, Any]:
    """All images in one, row by row."""
    n, height, width, channels = images.shape
    rows = -(-n // _SPRITES)
    sheet = np.zeros((rows * _SPRITES, height, width, channels), np.uint8)
    sheet[:n] = images
    whole = sheet.reshape(rows, _SPRITES, height, width, channels).transpose(0, 2, 1, 3, 4)
    whole = whole.reshape(rows * height, _SPRITES * width, channels)
    file = io.BytesIO()
    PIL.Image.fromarray(whole[..., 0] if channels == 1 else whole).save(file, "PNG", optimize=True)
    return {"width": width, "height": height, "columns": _SPRITES, "png": _text(file.getvalue())}


def _text(data: Any) -> str:
    return base64.b64encode(data if isinstance(data, bytes) else np.ascontiguousarray(data).tobytes()).decode()
