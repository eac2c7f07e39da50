"""What stands under the pointer is what stands in the figure: at its place, with its value and its interval."""

import re

import matplotlib.colors
import numpy as np
import pytest

from npk import plots
from npk.plots import COLORS
from npk.studies.pages.hovering import marks_of

ACCURACY = {"network": [0.21, 0.65, 0.93], "gates, $H$": [0.4, 0.72, 0.81]}
ENDS = {
    "network": [(0.17, 0.26), (0.6, 0.7), (0.9, 0.95)],
    "gates, $H$": [(0.35, 0.45), (0.68, 0.76), (0.77, 0.85)],
}
TICKS = ["0\n21%", "1\n65%", "2\n93%"]
ROWS = {"FR-II": 0.81, "FR-DI": 0.84, "FL-0": 0.79, "FL-6": 0.88, "DL": 0.95}
REACH = {label: (value - 0.03, value + 0.02) for label, value in ROWS.items()}
GROUPS = {"random": ["FR-II", "FR-DI"], "of a stage": ["FL-0", "FL-6"], "trained": ["DL"]}
SHARES = {"$K^V$": [0.8, 0.9, 0.5], "$K^F$": [0.3, 0.25, 0.2], "$K^{CROSS}$": [-0.1, -0.15, 0.3]}
STEPS, CLIMB = [0, 1, 3, 10, 31, 100, 230], [0.1, 0.12, 0.3, 0.55, 0.7, 0.85, 0.9]


def curves(**options):
    return plots.curves(ACCURACY, xlabel="stage", ylabel="accuracy", intervals=ENDS, **options)


FIGURES = {
    "curves": lambda: curves(percent=True, xticks=TICKS, references={"pixels": 0.7}),
    "curves, in numbers": lambda: curves(x=[1.0, 2.0, 5.0]),
    "dots": lambda: plots.dots(ROWS, REACH, GROUPS, xlabel="accuracy", reference=("ReLU", 0.9)),
    "shares": lambda: plots.shares(SHARES, xlabel="stage", ylabel="share", xticks=TICKS),
    "learning": lambda: plots.learning(STEPS, CLIMB, [0, 10, 230], xlabel="steps", ylabel="training accuracy"),
    "spectra": lambda: plots.spectra({"stage 0": [8.0, 4.0, 2.0, 1.0, 0.5], "stage 1": [3.0, 2.0, 1.0]}),
}


every_figure = pytest.mark.parametrize("name", FIGURES)


def saved(name, folder):
    """A figure as the page has it: drawn, its marks, and the SVG in which one points."""
    figure = FIGURES[name]()
    _, svg = plots.save(figure, folder / "figure")
    return figure, marks_of(figure), svg.read_text(encoding="utf-8")


def by_name(marks):
    return {series["name"]: series for series in marks}


def texts(series):
    return [(point[2], point[3]) for point in series["points"]]


def pixels(figure, dpi=300):
    """[height, width, rgb] as Matplotlib draws it."""
    before, figure.dpi = figure.dpi, dpi
    figure.canvas.draw()
    drawn = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int).copy()
    figure.dpi = before
    return drawn


def is_colour(drawn, colour, tolerance=12):
    rgb = np.round(255 * np.array(matplotlib.colors.to_rgb(colour))).astype(int)
    return np.abs(drawn - rgb).max(axis=-1) <= tolerance


def around(there, x, y, reach=0):
    """The pixels about a place in fractions of the figure."""
    height, width = there.shape
    row, column = round(y * height - 0.5), round(x * width - 0.5)
    return there[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1]


def svg_places(svg, colour):
    """Where the SVG has markers of a colour, in fractions of its own size."""
    width, height = (float(n) for n in re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups())
    found = re.findall(rf'<use [^>]*x="([\d.]+)" y="([\d.]+)" style="fill: {colour}', svg)
    return {(round(float(x) / width, 3), round(float(y) / height, 3)) for x, y in found}


def close_to_one_of(places, x, y):
    return any(abs(x - a) < 0.0015 and abs(y - b) < 0.0015 for a, b in places)


# --- places -----------------------------------------------------------------------------------------

MARKERS = {
    "curves": {"network": COLORS[0], "gates, H": COLORS[1]},
    "curves, in numbers": {"network": COLORS[0], "gates, H": COLORS[1]},
    "dots": dict(zip(GROUPS, COLORS, strict=False)),
}


@pytest.mark.parametrize("name", MARKERS)
def test_points_with_markers_are_where_the_pages_svg_and_the_pixels_have_them(name, tmp_path):
    figure, marks, svg = saved(name, tmp_path)
    assert by_name(marks).keys() == MARKERS[name].keys()
    drawn = pixels(figure)
    for series, colour in MARKERS[name].items():
        places, there = svg_places(svg, colour), is_colour(drawn, colour)
        points = by_name(marks)[series]["points"]
        for x, y, *_ in points:
            assert close_to_one_of(places, x, y), (series, x, y, places)
            assert around(there, x, y, 2).all(), "the middle of a marker, in its colour"
            beside = [around(there, x + dx, y + dy).all() for dx, dy in ((0.012, 0.03), (-0.012, 0.03), (0, -0.05))]
            assert sum(beside) <= 1, "and small"


def test_the_middle_of_all_pixels_of_a_dot_is_its_mark():
    """Of dots alone, without their intervals: to a pixel of three hundred an inch."""
    figure = plots.dots(ROWS, {}, {label: [label] for label in ROWS}, xlabel="accuracy")
    drawn = pixels(figure)
    for series, colour in zip(marks_of(figure), COLORS, strict=False):
        ((x, y, *_),) = series["points"]
        rows, columns = np.nonzero(is_colour(drawn, colour))
        near = np.hypot(columns / drawn.shape[1] - x, rows / drawn.shape[0] - y) < 0.04
        assert near.sum() > 50, "the others are in the legend"
        assert columns[near].mean() + 0.5 == pytest.approx(x * drawn.shape[1], abs=1)
        assert rows[near].mean() + 0.5 == pytest.approx(y * drawn.shape[0], abs=1)


def test_marks_of_bars_are_at_their_ends():
    """Of a part below zero at its lower end: inside it has the bar's colour, and beyond it has not."""
    figure = FIGURES["shares"]()
    drawn = pixels(figure)
    marks = by_name(marks_of(figure))
    assert list(marks) == ["K^V", "K^F", "K^{CROSS}"]
    for (name, series), colour, values in zip(marks.items(), COLORS[1:4], SHARES.values(), strict=True):
        there = is_colour(drawn, colour)
        for (x, y, *_), value in zip(series["points"], values, strict=True):
            inwards = 0.02 if value > 0 else -0.02
            for aside in (-0.03, 0.03):
                assert around(there, x + aside, y + inwards).all(), (name, value)
                assert not around(there, x + aside, y - inwards).any(), (name, value)


@pytest.mark.parametrize("name", ["learning", "spectra"])
def test_marks_of_lines_lie_on_them(name, tmp_path):
    figure, marks, _ = saved(name, tmp_path)
    lines = {str(line.get_label()): line for line in figure.axes[0].get_lines()}
    drawn = pixels(figure)
    for series in marks:
        line = lines[series["name"]]
        there = is_colour(drawn, line.get_color(), 25)
        covered = {0, 3, 6} if name == "learning" else set()  # by the numbers of the stages
        for place, (x, y, *_) in enumerate(series["points"]):
            if place not in covered:
                assert around(there, x, y, 3).any(), (series["name"], place)
        spread = [point[0] for point in series["points"]]
        assert spread == sorted(spread) and len(spread) == len(line.get_xdata())


def test_a_mark_stays_at_its_place_whatever_size_the_figure_was_drawn_at():
    figure = FIGURES["curves"]()
    places = []
    for dpi in (72, 100, 200):
        pixels(figure, dpi)
        places.append([point[:2] for series in marks_of(figure) for point in series["points"]])
    np.testing.assert_allclose(places[0], places[1], atol=0.006)
    np.testing.assert_allclose(places[2], places[1], atol=0.006)


# --- words ------------------------------------------------------------------------------------------


def test_values_come_with_their_intervals_in_the_units_of_the_axis():
    figure = FIGURES["curves"]()
    figure.canvas.draw()
    marks = by_name(marks_of(figure))
    assert texts(marks["network"]) == [
        ("0, 21%", "21.0% [17.0%, 26.0%]"),
        ("1, 65%", "65.0% [60.0%, 70.0%]"),
        ("2, 93%", "93.0% [90.0%, 95.0%]"),
    ]
    assert texts(marks["gates, H"])[2] == ("2, 93%", "81.0% [77.0%, 85.0%]")
    assert {series["by"] for series in marks.values()} == {"x"}


def test_numbers_that_are_no_shares_are_told_as_numbers():
    figure = FIGURES["curves, in numbers"]()
    figure.canvas.draw()
    network = by_name(marks_of(figure))["network"]
    assert [text for _, text in texts(network)] == ["0.21 [0.17, 0.26]", "0.65 [0.6, 0.7]", "0.93 [0.9, 0.95]"]
    assert [float(where) for where, _ in texts(network)] == [1, 2, 5]


def test_a_row_of_dots_is_called_by_its_label():
    figure = FIGURES["dots"]()
    figure.canvas.draw()
    marks = by_name(marks_of(figure))
    assert {series["by"] for series in marks.values()} == {"y"}
    found = {where: text for series in marks.values() for where, text in texts(series)}
    assert found == {
        "FR-II": "81.0% [78.0%, 83.0%]",
        "FR-DI": "84.0% [81.0%, 86.0%]",
        "FL-0": "79.0% [76.0%, 81.0%]",
        "FL-6": "88.0% [85.0%, 90.0%]",
        "DL": "95.0% [92.0%, 97.0%]",
    }
    assert [where for where, _ in texts(marks["of a stage"])] == ["FL-0", "FL-6"]


def test_an_interval_belongs_to_its_own_row_where_another_of_its_group_has_none():
    figure = plots.dots(ROWS, {"FL-6": REACH["FL-6"]}, GROUPS, xlabel="accuracy")
    figure.canvas.draw()
    found = dict(texts(by_name(marks_of(figure))["of a stage"]))
    assert found == {"FL-0": "79.0%", "FL-6": "88.0% [85.0%, 90.0%]"}


def test_shares_are_told_bar_by_bar_with_their_sign():
    figure = FIGURES["shares"]()
    figure.canvas.draw()
    marks = by_name(marks_of(figure))
    assert [text for _, text in texts(marks["K^V"])] == ["80.0%", "90.0%", "50.0%"]
    assert texts(marks["K^{CROSS}"]) == [("0, 21%", "-10.0%"), ("1, 65%", "-15.0%"), ("2, 93%", "30.0%")]


def test_records_of_training_are_called_by_their_steps():
    figure = FIGURES["learning"]()
    figure.canvas.draw()
    (series,) = marks_of(figure)
    assert series["name"] == "training accuracy" and series["by"] == "x"
    assert [text for _, text in texts(series)] == [f"{value:.1%}" for value in CLIMB]
    assert [where for where, _ in texts(series)] == [str(step) for step in STEPS]


def test_eigenvalues_are_called_by_their_rank():
    figure = FIGURES["spectra"]()
    figure.canvas.draw()
    marks = by_name(marks_of(figure))
    assert [where for where, _ in texts(marks["stage 0"])] == ["1", "2", "3", "4", "5"]
    shares = np.array([8, 4, 2, 1, 0.5]) / 15.5
    assert [float(text) for _, text in texts(marks["stage 0"])] == pytest.approx(shares, rel=0.01)


@every_figure
def test_no_formula_is_told_as_it_is_written(name, tmp_path):
    """Ticks of logarithmic axes are formulas, which a browser would show as they are written."""
    for series in saved(name, tmp_path)[1]:
        for point in series["points"]:
            assert not re.search(r"[$\\]", f"{series['name']}{point[2]}{point[3]}"), point


def test_of_a_long_line_the_first_the_last_and_some_between_are_marked():
    ranks = np.arange(1, 1001)
    figure = plots.spectra({"K": 1.0 / ranks})
    figure.canvas.draw()
    (series,) = marks_of(figure)
    where = [float(point[2]) for point in series["points"] if not re.search(r"[$\\]", point[2])]
    places = [point[0] for point in series["points"]]
    assert len(series["points"]) <= 40 and where == sorted(where) and max(where) <= 1000
    ends = figure.axes[0].transData.transform([(1, 1), (1000, 1)])[:, 0] / figure.bbox.width
    assert [places[0], places[-1]] == pytest.approx(ends, abs=1e-3)
    assert max(np.diff(places)) < 0.28, "on logarithmic axes no wide part without a mark"
    values = np.array([float(point[3]) for point in series["points"]])
    assert (np.diff(values) < 0).all()


def test_heat_maps_and_what_has_no_name_have_no_marks():
    maps = plots.heatmaps({"K": [np.eye(4)]}, [0, 0, 1, 1], columns=["0"], class_names=["a", "b"])
    assert marks_of(maps) == [] == marks_of(plots.kernel(np.eye(4), [0, 0, 1, 1]))
    figure = plots.curves({"a": [1.0, 2.0]}, xlabel="x", ylabel="y", references={"level": 1.5})
    figure.canvas.draw()
    assert [series["name"] for series in marks_of(figure)] == ["a"]


@every_figure
def test_every_place_is_within_the_figure(name, tmp_path):
    for series in saved(name, tmp_path)[1]:
        places = np.array([point[:2] for point in series["points"]])
        assert ((places > 0) & (places < 1)).all(), series["name"]
