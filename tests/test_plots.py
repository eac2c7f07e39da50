import numpy as np
import pytest
from IPython.core.formatters import DisplayFormatter

from npk import plots


def test_saving_twice_gives_the_same_bytes(tmp_path):
    figures = {
        "curves": lambda: plots.curves({"a": [1, 2], "b": [2, 1]}, xlabel="x", ylabel="y", references={"r": 1.5}),
        "shares": lambda: plots.shares({"a": [0.7, 1.2], "b": [0.3, -0.2]}, xlabel="x", ylabel="y", xticks=["0", "1"]),
        "heatmaps": lambda: plots.heatmaps({"K": [np.eye(4)]}, [0, 0, 1, 1], columns=["0"], class_names=["a", "b"]),
        "kernel": lambda: plots.kernel(np.eye(4), [0, 1, 0, 1]),
        "spectra": lambda: plots.spectra({"a": [2.0, 1.0, -1e-9]}),
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
    assert [a.get_title(loc="center") for a in figure.axes] == ["0", "1"]


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
