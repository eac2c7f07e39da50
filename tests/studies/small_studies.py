"""A study that takes a moment, and figures that are not drawn to files."""

from npk import plots
from npk.studies import StudyConfig

TINY = StudyConfig(
    dataset="digits",
    width=12,
    depth=3,
    epochs=4,
    learning_rate=0.01,
    samples=40,
    test_samples=30,
    stages=4,
    regimes=False,
)


def saved_alone(monkeypatch, *names):
    """Of the figures that are drawn only these are saved, with empty files for the others: that is most of the time."""
    save = plots.save

    def saved(figure, stem):
        if stem.name in names:
            return save(figure, stem)
        paths = stem.with_suffix(".png"), stem.with_suffix(".svg")
        for path in paths:
            path.write_text("<svg></svg>")
        return paths

    monkeypatch.setattr(plots, "save", saved)


def as_digits(right):
    """Truth values as they stand in a run's file: four to a digit, the first the highest."""
    bits = "".join("1" if value else "0" for value in right)
    bits += "0" * (-len(bits) % 8)
    return "".join(f"{int(bits[i : i + 4], 2):x}" for i in range(0, len(bits), 4))
