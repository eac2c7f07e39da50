"""What things are called on the page of a study."""

from collections.abc import Mapping
from typing import Any

#: What the gates of other kinds are called, and what their change is.
OTHER_GATES = {
    "soft": ("smooth gates", "the smooth gates a(q)/q of its units"),
    "pattern": ("patterns", "the patterns of its attention, that is how much each token takes from which others"),
    "scale": ("scales", "the scales 1/σ of its normalisations"),
    "product": ("products", "the sides of its products that gate the others"),
    "declared": ("declared gates", "what is declared to be a gate"),
}

#: Regimes side by side: what is done to their gates.
REGIME_GROUPS = {
    "gates random, frozen": ("FR-II", "FR-DI"),
    "gates of stage k, frozen": ("FL",),
    "soft gates, trained": ("DL",),
    "linear gates, trained": ("DLGN", "DLGN-SF"),
}


def nouns(study: Mapping[str, Any]) -> dict[str, str]:
    """What a sample is, and what it is made of."""
    if study["pixels"] is None:
        return {"image": "sequence", "pixel": "token"}
    if len(study["data"]["shape"]) == 3:
        return {"image": "image", "pixel": "pixel"}
    return {"image": "point", "pixel": "coordinate"}


def regimes_shown(study: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The regimes that could be trained."""
    return [row for row in study["regimes"] if row["test_accuracy"] is not None]


def network_words(network: Mapping[str, Any]) -> str:
    """A network in words: what it is, how wide, how deep."""
    if "width" not in network and "channels" not in network:
        return str(network["kind"])
    width = network.get("width") or network.get("channels")
    unit = "channels" if "channels" in network else "wide"
    layers = "weight layer" if network["kind"] in ("MLP", "ResNet") else "layer"
    depth = f", {network['depth']} {layers}{'s' if network['depth'] > 1 else ''}" if "depth" in network else ""
    bias = "with biases" if network.get("use_bias") else "no biases"
    return f"{network['kind']}, {width} {unit}{depth}, {bias}"
