"""`npk compare`: kernels at finite width tend to their limits, and the run folder keeps what it has."""

import dataclasses
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from npk.cli import app
from npk.studies import CompareConfig, run_comparison
from npk.studies.pages.comparison_page import write_comparison_report

pytestmark = pytest.mark.standard_dtypes

TINY = CompareConfig(
    depth=3,
    widths=(8, 16, 32),
    seeds=2,
    inputs=8,
    samples=60,
    test_samples=30,
    gates_width=12,
    gates_seeds=1,
    epochs=2,
    flow_width=12,
    flow_samples=12,
    flow_steps=8,
)


class Interrupted(Exception):
    pass


def numbers(value):
    """All of a result but the times."""
    if isinstance(value, dict):
        return {k: numbers(v) for k, v in value.items() if k != "seconds"}
    return [numbers(v) for v in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare") / "run"
    return folder, run_comparison(TINY, folder)


def test_a_comparison_holds_every_draw_kernel_and_prediction(finished):
    folder, result = finished
    assert json.loads((folder / "compare.json").read_text(encoding="utf-8")) == result
    assert [(row["width"], row["seed"]) for row in result["ladder"]] == [(w, s) for w in (8, 16, 32) for s in (0, 1)]
    assert all(low["low"] <= low["slope"] <= low["high"] for low in result["slopes"].values())
    kernels = {row["kernel"] for row in result["regression"]}
    assert {"npk-random", "npk-learned", "npk-infinite", "ntk-infinite", "nngp-infinite"} <= kernels
    assert all(0 <= row["test_accuracy"] <= 1 for row in result["regression"])
    errors = [error for row in result["flow"] for error in row["errors"].values()]
    assert len(result["flow"]) == 3 and all(np.isfinite(list(error.values())).all() for error in errors)


def test_only_where_gates_learn_is_the_tangent_kernel_more_than_its_value_part(finished):
    errors = {row["case"]: row["errors"] for row in finished[1]["flow"]}
    assert errors["FR-II"]["ntk"] == errors["FR-II"]["value"]
    assert errors["ReLU"]["ntk"] == errors["ReLU"]["value"]
    assert errors["soft"]["ntk"] != errors["soft"]["value"]


def test_a_killed_comparison_continues_to_the_same_numbers(finished, tmp_path):
    def stop(fraction, text):
        if text.startswith("width 32"):
            raise Interrupted

    with pytest.raises(Interrupted):
        run_comparison(TINY, tmp_path / "run", progress=stop)
    kept = json.loads((tmp_path / "run" / "compare.json").read_text(encoding="utf-8"))
    assert not kept["finished"] and {row["width"] for row in kept["ladder"]} == {8, 16}
    with pytest.raises(FileExistsError, match="an unfinished comparison: continue it with --resume"):
        run_comparison(TINY, tmp_path / "run")
    result = run_comparison(TINY, tmp_path / "run", resume=True)
    assert result["ladder"][:4] == kept["ladder"], "what was finished is not done again"
    assert numbers(result) == numbers(finished[1])


def test_a_comparison_is_not_mixed_with_another(finished, tmp_path):
    folder, _ = finished
    with pytest.raises(ValueError, match="another configuration .*seeds = 2 there, 3 here"):
        run_comparison(dataclasses.replace(TINY, seeds=3), folder, resume=True)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds no comparison"):
        run_comparison(TINY, tmp_path)


def test_the_report_is_one_page(finished):
    folder, result = finished
    page = write_comparison_report(folder).read_text(encoding="utf-8")
    assert page.count("<figure") == 4 == page.count("<svg") and "$" not in page.split("<svg")[0]
    assert f"{len(result['ladder']) // 3} draws a width" in page
    assert {path.name for path in (folder / "figures").glob("*.png")} >= {"limits.png", "regimes.png"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "resnet"}, "network must be one of mlp, c4gap.* got 'resnet'"),
        ({"depth": 1}, "depth must be at least 2"),
        ({"widths": (8,)}, "at least two different numbers"),
        ({"widths": (8, 16), "seeds": 1}, "at least three draws"),
        ({"flow_step": 0.0}, "flow_step must be positive"),
        ({"inputs": 1}, "inputs must be at least 2"),
    ],
)
def test_configurations_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        CompareConfig(**changes)


def test_bad_flags_are_one_line():
    result = CliRunner().invoke(app, ["compare", "--widths", "8,many"])
    assert result.exit_code != 0 and "whole numbers with commas" in result.output + (result.stderr or "")
    assert "Traceback" not in result.output


@pytest.mark.slow
def test_single_draws_close_in_as_one_over_the_root_of_the_width_and_dependent_gates_do_not(tmp_path):
    """K^V of FR-II about its mean dσ^{2(d-1)}H has slope -1/2; K^V of FR-DI stays at the distance of the limits."""
    # One draw is off by a factor of about e^0.4: 150 of them give the slope a standard error of 0.03.
    config = dataclasses.replace(TINY, widths=(64, 128, 256, 512, 1024), seeds=30)
    result = run_comparison(config, tmp_path)
    for curve in ("ii-draw", "ntk", "npk", "di"):
        fit = result["slopes"][curve]
        assert abs(fit["slope"] + 0.5) < 0.1, (curve, fit)
    gap = result["limit_gap"]
    widest = [row["errors"]["di-gap"] for row in result["ladder"] if row["width"] == 1024]
    assert gap > 0.1 and np.mean(widest) > 0.9 * gap
    assert abs(result["slopes"]["di-gap"]["slope"]) < 0.25 < abs(result["slopes"]["ii-draw"]["slope"])
