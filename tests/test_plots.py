import numpy as np
import pytest
from IPython.core.formatters import DisplayFormatter
from matplotlib.colors import to_hex

from npk import plots


def test_saving_twice_gives_the_same_bytes(tmp_path):
    figures = {
        "curves": lambda: plots.curves({"a": [1, 2], "b": [2, 1]}, xlabel="x", ylabel="y", references={"r": 1.5}),
        "shares": lambda: plots.shares({"a": [0.7, 1.2], "b": [0.3, -0.2]}, xlabel="x", ylabel="y", xticks=["0", "1"]),
        "heatmaps": lambda: plots.heatmaps({"K": [np.eye(4)]}, [0, 0, 1, 1], columns=["0"], class_names=["a", "b"]),
        "kernel": lambda: plots.kernel(np.eye(4), [0, 1, 0, 1]),
        "spectra": lambda: plots.spectra({"a": [2.0, 1.0, -1e-9]}),
        "curves with intervals": lambda: plots.curves(
            {"a": [1, 2]}, xlabel="x", ylabel="y", intervals={"a": [(0.5, 1.5), (1, 3)]}
        ),
        "dots": lambda: plots.dots({"a": 0.5, "b": 0.7}, {"a": (0.4, 0.6)}, {"A": ["a"], "B": ["b"]}, xlabel="x"),
        "learning": lambda: plots.learning([0, 1, 5], [0.1, 0.4, 0.9], [0, 5], xlabel="x", ylabel="y"),
    }
    for name, make in figures.items():
        first = [path.read_bytes() for path in plots.save(make(), tmp_path / name)]
        again = [path.read_bytes() for path in plots.save(make(), tmp_path / name)]
        assert first == again and first[0].startswith(b"\x89PNG") and b"<svg" in first[1]


def test_the_style_stays_inside_our_figures():
    import matplotlib

    before = dict(matplotlib.rcParams)
    plots.curves({"a": [1, 2]}, xlabel="x", ylabel="y")
    assert dict(matplotlib.rcParams) == before


def test_names_at_the_lines_ends_do_not_overlap():
    figure = plots.curves({f"line {i}": [0, 1 + i / 1000] for i in range(6)}, xlabel="x", ylabel="y")
    heights = sorted(text.xy[1] for text in figure.axes[0].texts)
    assert min(np.diff(heights)) > 0.07 and heights[-1] <= 1.0


def test_intervals_stand_upright_through_their_own_points():
    """In the colour of their line; a series without intervals has none."""
    ends = [(0.9, 1.2), (1.5, 2.5), (2.0, 4.0)]
    x, colors = [1.0, 2.0, 5.0], {"a": "#123456"}
    figure = plots.curves(
        {"a": [1, 2, 3], "b": [3, 2, 1]}, x, xlabel="x", ylabel="y", intervals={"a": ends}, colors=colors
    )
    (bars,) = figure.axes[0].collections
    found = [segment.tolist() for segment in bars.get_segments()]
    assert found == [[[at, low], [at, high]] for at, (low, high) in zip(x, ends, strict=True)]
    assert to_hex(bars.get_color()[0]) == "#123456" == to_hex(figure.axes[0].lines[0].get_color())
    low, high = figure.axes[0].get_ylim()
    assert low < 0.9 and high > 4.0, "the axes are as high as they reach"


def test_names_and_colours_of_lines_are_the_same_with_intervals_and_without():
    series = {"a": [0.1, 0.2], "b": [0.3, 0.1]}
    plain = plots.curves(series, xlabel="x", ylabel="y", percent=True)
    told = plots.curves(series, xlabel="x", ylabel="y", percent=True, intervals={"b": [(0.2, 0.4), (0.0, 0.2)]})
    for figure in (plain, told):
        assert [text.get_text() for text in figure.axes[0].texts] == ["b", "a"]
        assert [to_hex(line.get_color()) for line in figure.axes[0].lines[:2]] == list(plots.COLORS[:2])
    assert len(plain.axes[0].collections) == 0


GROUPS = {"random": ["FR"], "learned": ["FL", "DL"]}


def test_dots_stand_in_rows_from_top_to_bottom_each_with_its_interval():
    values, ends = {"FL": 0.9, "FR": 0.8, "DL": 0.95}, {"FL": (0.87, 0.93), "DL": (0.91, 0.97)}
    figure = plots.dots(values, ends, GROUPS, xlabel="accuracy", reference=("ReLU", 0.85))
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["FL", "FR", "DL"]
    rows = dict(zip(("FL", "FR", "DL"), axes.get_yticks(), strict=True))
    assert axes.get_ylim()[0] > rows["DL"] > rows["FR"] > rows["FL"] > axes.get_ylim()[1], "downwards"
    random, learned = (next(line for line in axes.lines if line.get_label() == name) for name in GROUPS)
    assert random.get_xydata().tolist() == [[0.8, rows["FR"]]]
    assert learned.get_xydata().tolist() == [[0.9, rows["FL"]], [0.95, rows["DL"]]]
    (bars,) = axes.collections
    assert [segment.tolist() for segment in bars.get_segments()] == [
        [[low, rows[label]], [high, rows[label]]] for label, (low, high) in ends.items()
    ]
    assert to_hex(bars.get_color()[0]) == to_hex(learned.get_color()) != to_hex(random.get_color())
    assert [(text.get_text(), text.xy[1]) for text in axes.texts] == [
        ("90.0%", rows["FL"]),
        ("80.0%", rows["FR"]),
        ("95.0%", rows["DL"]),
    ]
    dashed = next(line for line in axes.lines if line.get_linestyle() == "--")
    assert set(dashed.get_xdata()) == {0.85} and axes.get_title(loc="right") == "dashed: ReLU, 85.0%"
    low, high = axes.get_xlim()
    assert 0.7 < low < 0.8 and 0.97 < high < 1.05, "of what is there, not from zero"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["random", "learned"]


def test_a_row_without_an_interval_is_a_dot_alone():
    figure = plots.dots({"a": 0.5}, {}, {"A": ["a"]}, xlabel="x")
    assert len(figure.axes[0].collections) == 0 and len(figure.axes[0].lines) == 1


def test_negative_shares_hang_below_the_axis_and_those_of_one_sign_are_stacked():
    parts = {"a": [0.9], "b": [-0.2], "c": [0.6], "d": [-0.3]}
    figure = plots.shares(parts, xlabel="x", ylabel="y", xticks=["0"])
    ends = [(bar.get_y(), bar.get_y() + bar.get_height()) for bar in figure.axes[0].patches]
    np.testing.assert_allclose(ends, [(0, 0.9), (0, -0.2), (0.9, 1.5), (-0.2, -0.5)])


def test_a_spectrum_is_drawn_by_rank_divided_by_its_sum():
    (line,) = plots.spectra({"K": [3.0, 1.0, -1e-9]}).axes[0].lines
    np.testing.assert_allclose(line.get_xydata(), [(1, 0.75), (2, 0.25)])


def test_heatmaps_mark_each_class_in_the_middle_of_its_samples():
    labels = [0, 0, 0, 0, 2, 2]
    figure = plots.heatmaps({"K": [np.eye(6)] * 2}, labels, columns=["0", "1"], class_names=["a", "b", "c"])
    axes = figure.axes[0]
    assert list(axes.get_xticks()) == [1.5, 4.5]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "c"]
    assert [a.get_title(loc="center") for a in figure.axes] == ["0", "1", ""], "the last are the colours' bar"


def test_one_bar_of_colours_stands_for_all_heat_maps_and_each_has_its_bound_below_it():
    """99 of 100 absolute entries lie within the bound; the bar has its signs, and no numbers of one panel."""
    rows = {"K": [np.eye(10), -250.0 * np.eye(10)], "H": [np.arange(100.0).reshape(10, 10) / 100, np.zeros((10, 10))]}
    figure = plots.heatmaps(rows, [0] * 5 + [1] * 5, columns=["0", "1"], class_names=["a", "b"])
    *maps, bar = figure.axes
    bounds = [1.0, 250.0, 0.99 * 0.99, 1.0]
    for axes, bound in zip(maps, bounds, strict=True):
        low, high = axes.images[0].get_clim()
        assert -low == high == pytest.approx(bound)
        assert axes.images[0].cmap.name == "RdBu_r"
    assert [axes.get_xlabel() for axes in maps] == ["±1", "±250", "±0.98", "±1"]
    assert [tick.get_text() for tick in bar.get_xticklabels()] == ["−", "0", "+"]
    ticks, (left, right) = bar.get_xticks(), bar.get_xlim()
    np.testing.assert_allclose((ticks - left) / (right - left), [0, 0.5, 1])
    figure.canvas.draw()
    lowest = min(axes.get_position().y0 for axes in maps)
    assert bar.get_position().y1 < lowest, "below them all"


def test_the_bar_goes_from_blue_below_zero_to_red_above():
    figure = plots.heatmaps({"K": [np.eye(4) - 0.5]}, [0, 0, 1, 1], columns=["0"], class_names=["a", "b"])
    figure.canvas.draw()
    drawn = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)
    box = figure.axes[-1].get_position()
    row = round((1 - (box.y0 + box.y1) / 2) * len(drawn))
    left, right = (round((box.x0 + share * box.width) * drawn.shape[1]) for share in (0.05, 0.95))
    (red, _, blue), (red_above, _, blue_above) = drawn[row, left], drawn[row, right]
    assert blue > red + 40 and red_above > blue_above + 40


def test_a_kernel_is_ordered_by_class_whatever_the_order_of_its_samples():
    labels, x = np.array(["b", "a", "b", "c", "a"]), np.arange(5.0)
    axes, bar = plots.kernel(np.outer(x, x), labels, title="K").axes
    order = [1, 4, 0, 2, 3]
    np.testing.assert_array_equal(axes.images[0].get_array(), np.outer(x[order], x[order]))
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["a", "b", "c"]
    assert list(axes.get_yticks()) == [0.5, 2.5, 4.0] and axes.get_title(loc="left") == "K"
    assert [line.get_xdata()[0] for line in axes.lines[1::2]] == [1.5, 3.5], "boundaries"
    assert bar.get_ylim()[0] == 0, "no colours for what there is not"


def test_a_kernel_without_labels_keeps_its_order_and_shows_both_signs():
    matrix = np.diag([3.0, -1.0, 2.0])
    axes, bar = plots.kernel(matrix).axes
    np.testing.assert_array_equal(axes.images[0].get_array(), matrix)
    assert not axes.get_xticks().size and bar.get_ylim()[0] == -bar.get_ylim()[1]


def test_names_of_many_classes_do_not_crowd():
    figure = plots.kernel(np.eye(200), np.arange(200) // 2, class_names=[f"class {i}" for i in range(100)], width=2)
    shown = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert 3 < len(shown) <= 10 and shown[0] == "class 0"


@pytest.mark.parametrize("make", [lambda: plots.kernel(np.eye(2)), lambda: plots.spectra({"K": [1.0]})])
def test_a_notebook_shows_a_figure(make):
    """As it asks any object: Matplotlib's own figures answer to nothing before pyplot has been told."""
    pictures = DisplayFormatter().format(make(), include=["image/png"])[0]
    assert pictures["image/png"].startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.curves({}, xlabel="x", ylabel="y"), "at least one series"),
        (lambda: plots.curves({"a": [1, 2], "b": [1]}, xlabel="x", ylabel="y"), "series 'b' must have 2 values"),
        (
            lambda: plots.curves({"a": [1, 2]}, xlabel="x", ylabel="y", intervals={"a": [(0, 2)]}),
            r"intervals of 'a' must be two ends a value of a series of that name, got \(1, 2\)",
        ),
        (
            lambda: plots.curves({"a": [1]}, xlabel="x", ylabel="y", intervals={"b": [(0, 2)]}),
            "intervals of 'b' must be two ends a value of a series of that name",
        ),
        (lambda: plots.dots({"a": 0.5, "b": 0.6}, {}, {"A": ["a"]}, xlabel="x"), "every row must be in one group"),
        (lambda: plots.dots({"a": 0.5}, {}, {"A": ["a"], "B": ["a"]}, xlabel="x"), "every row must be in one group"),
        (lambda: plots.shares({"a": [1]}, xlabel="x", ylabel="y", xticks=["0", "1"]), "part 'a' must have 2 values"),
        (
            lambda: plots.heatmaps({"K": [np.eye(2)]}, [1, 0], columns=["0"], class_names=["a", "b"]),
            "sort the samples by class first",
        ),
        (
            lambda: plots.heatmaps({"K": [np.eye(3)]}, [0, 1], columns=["0"], class_names=["a", "b"]),
            r"must be \[2, 2\], one row a label, got shape \[3, 3\]",
        ),
        (lambda: plots.kernel(np.ones((2, 3))), r"K must be square \[N, N\] and not empty, got shape \[2, 3\]"),
        (lambda: plots.kernel(np.eye(2) * 1j), "K must be real, got complex128"),
        (lambda: plots.kernel(np.diag([1, np.nan])), "K must be finite; 1 of its entries"),
        (lambda: plots.kernel(np.eye(2), [0]), r"labels must have shape \[2\], one a sample, got \[1\]"),
        (lambda: plots.kernel(np.eye(2), [0, 2], class_names="ab"), r"numbers of the 2 class_names, got \[0, 2\]"),
        (lambda: plots.kernel(np.eye(2), class_names="ab"), "give labels too"),
        (lambda: plots.spectra({"K": [-1.0]}), "spectrum 'K' has no positive eigenvalue"),
        (lambda: plots.learning([0, 1], [0, 1], [2], xlabel="x", ylabel="y"), r"marked steps \[2\] have no record"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
