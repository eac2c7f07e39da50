"""`npk compare`: kernels at finite width tend to their limits, and the run folder keeps what it has."""

import dataclasses
import json
import re
import shlex
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from oracles import dense, intervals
from read_pages import page_of
from small_studies import as_digits
from typer.testing import CliRunner

from npk import networks
from npk.cli import app, options
from npk.data import load
from npk.folders import read_json, write_json
from npk.studies import CompareConfig, run_comparison
from npk.studies.pages.comparison_page import write_comparison_report
from npk.studies.regression import LABELS, fixed_kernels
from npk.training import redraw

pytestmark = pytest.mark.standard_dtypes

TINY = CompareConfig(
    depth=3,
    widths=(64, 256),
    seeds=2,
    inputs=8,
    samples=60,
    test_samples=300,
    gates_width=12,
    gates_seeds=2,
    epochs=2,
    batch_size=20,
    learning_rate=0.02,
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
def continued(tmp_path_factory):
    """A comparison that was killed at its second width: its folder, what it had then, and its end."""
    folder = tmp_path_factory.mktemp("compare") / "run"

    def stop(fraction, text):
        if text.startswith("width 256"):
            raise Interrupted

    with pytest.raises(Interrupted):
        run_comparison(TINY, folder, progress=stop)
    kept = json.loads((folder / "compare.json").read_text(encoding="utf-8"))
    with pytest.raises(FileExistsError, match="an unfinished comparison: continue it with --resume"):
        run_comparison(TINY, folder)
    return folder, kept, run_comparison(TINY, folder, resume=True)


@pytest.fixture(scope="module")
def finished(continued):
    """Its folder and its end, which are those of a comparison that was never killed."""
    return continued[0], continued[-1]


def test_a_comparison_holds_every_draw_kernel_and_prediction(finished):
    folder, result = finished
    assert read_json(folder / "compare.json") == result
    assert [(row["width"], row["seed"]) for row in result["ladder"]] == [(w, s) for w in (64, 256) for s in (0, 1)]
    fixed = [(name, None) for name in ("pixels", "npk-infinite", "ntk-infinite", "nngp-infinite")]
    drawn = [(name, seed) for seed in (0, 1) for name in ("npk-random", "npk-learned")]
    assert [(row["kernel"], row["seed"]) for row in result["regression"]] == fixed + drawn
    assert [row["case"] for row in result["flow"]] == ["FR-II", "ReLU", "soft"]


def he_weights(key, width, outputs):
    """What a draw of this key is: one key a layer, He's variance."""
    shapes = [(64, width), (width, width), (width, outputs)]
    layers = {str(number): jax.ShapeDtypeStruct(shape, jnp.float32) for number, shape in enumerate(shapes)}
    return [np.asarray(w, np.float64) for w in redraw(layers, key, "he").values()]


def inputs(folder, part):
    """Flattened images of a part of the comparison, and their classes."""
    data = load("digits")
    with np.load(folder / "samples.npz") as samples:
        places = samples[part]
    x, y = (data.x_test, data.y_test) if "test" in part else (data.x_train, data.y_train)
    return x[places].reshape(len(places), -1).astype(np.float64), y[places]


def distance(kernel, reference):
    return np.linalg.norm(kernel - reference) / np.linalg.norm(reference)


def test_the_errors_of_every_draw_are_those_of_its_weights_by_hand(finished):
    """Weights from the keys (width, draw) of the seed; kernels and limits from their formulas, in NumPy."""
    folder, result = finished
    x, _ = inputs(folder, "ladder")
    limits = dense.limits(3, x, x)
    with np.load(folder / "limits.npz") as saved:
        for name, kernel in (*limits.items(), ("FR-DI", limits["ntk"])):
            np.testing.assert_allclose(saved[name], kernel, rtol=1e-4)
    gap = distance(limits["ntk"], limits["npk"])
    assert result["limit_gap"] == pytest.approx(gap, rel=1e-4) and result["weight_layers"] == 3
    for row in result["ladder"]:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), row["width"]), row["seed"])
        value, feature = (he_weights(k, row["width"], 1) for k in jax.random.split(key))
        own, other = dense.gates(value, x), dense.gates(feature, x)
        tangents = dense.tangents(value, x, dense.hard)
        frozen = dense.tangents(value, x, dense.given(other))
        ntk, value_part = dense.gram(tangents, tangents), dense.gram(frozen, frozen)
        npk = dense.path_kernel(x, x, other, other)
        expected = {
            "ntk": distance(ntk, limits["ntk"]),
            "nngp": distance(dense.gram(tangents[-1:], tangents[-1:]), limits["nngp"]),
            "npk": distance(npk, limits["npk"]),
            "ii-draw": distance(value_part, npk),
            "ii": distance(value_part, limits["npk"]),
            "di": distance(ntk, limits["ntk"]),
            "di-gap": distance(ntk, dense.path_kernel(x, x, own, own)),
        }
        assert row["errors"] == pytest.approx(expected, rel=1e-3)
        if row["seed"] == 0:
            with np.load(folder / "kernels" / f"width-{row['width']}.npz") as saved:
                np.testing.assert_allclose(saved["K^V, FR-II"], value_part, rtol=1e-3)


def test_slopes_are_least_squares_of_the_logarithms_with_students_interval(finished):
    rows = finished[1]["ladder"]
    for name, slope in finished[1]["slopes"].items():
        fit = scipy.stats.linregress(*np.log([(row["width"], row["errors"][name]) for row in rows]).T)
        reach = scipy.stats.t.ppf(0.975, len(rows) - 2) * fit.stderr
        found = [slope[number] for number in ("slope", "low", "high", "factor")]
        expected = [fit.slope, fit.slope - reach, fit.slope + reach, np.exp(fit.intercept)]
        assert found == pytest.approx(expected), name
        assert slope["expected"] == (0.0 if name == "di-gap" else -0.5)


def test_the_fixed_kernels_are_the_limits_that_their_names_say():
    data = load("digits")
    x, x_test = data.x_train[:5], data.x_test[:3]
    flat, flat_test = (batch.reshape(len(batch), -1).astype(np.float64) for batch in (x, x_test))
    expected = {f"{name}-infinite": kernel for name, kernel in dense.limits(2, flat_test, flat).items()}
    found = {name: np.asarray(kernel(x_test, x)) for name, kernel in fixed_kernels("mlp", 2, {"x": x})}
    assert found.keys() == {"pixels", *expected}
    factor = 2 * 2**2  # d·∏σ² with He's variances, of which H has none
    np.testing.assert_allclose(factor * found.pop("npk-infinite"), expected.pop("npk-infinite"), rtol=2e-4)
    pixels = found.pop("pixels")
    np.testing.assert_allclose(pixels / pixels[0, 0], flat_test @ flat.T / (flat_test[0] @ flat[0]), rtol=1e-5)
    for name, kernel in expected.items():
        np.testing.assert_allclose(found[name], kernel, rtol=2e-4)


def test_the_accuracies_are_those_of_kernels_by_hand(finished):
    """Limits by their formulas; gates of a network that is drawn and trained here by plain Optax."""
    folder, result = finished
    (x, y), (x_test, y_test) = inputs(folder, "train"), inputs(folder, "test")
    kernels = {"pixels": (x @ x.T, x_test @ x.T)}
    for name, kernel in dense.limits(3, x, x).items():
        kernels[f"{name}-infinite"] = kernel, dense.limits(3, x_test, x)[name]
    kernels = {(name, None): kernel for name, kernel in kernels.items()}
    module = networks.MLP(width=12, depth=3, outputs=10, use_bias=False)
    optimizer, accuracies = optax.adam(0.02), {}

    @jax.jit
    def step(params, state, batch, labels):
        def loss(p):
            return optax.softmax_cross_entropy_with_integer_labels(module.apply(p, batch), labels).mean()

        change, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, change), state

    for seed in (0, 1):
        start, order = jax.random.split(jax.random.key(seed))
        params = trained = module.init(start, jnp.asarray(x[:1], jnp.float32))
        state = optimizer.init(params)
        for epoch in range(2):
            for batch in np.asarray(jax.random.permutation(jax.random.fold_in(order, epoch), 60)).reshape(3, 20):
                trained, state = step(trained, state, jnp.asarray(x[batch], jnp.float32), y[batch])
        for name, tree in (("npk-random", params), ("npk-learned", trained)):
            weights = [np.asarray(tree["params"][f"Dense_{i}"]["kernel"], np.float64) for i in range(3)]
            gates, test_gates = dense.gates(weights, x), dense.gates(weights, x_test)
            cross = dense.path_kernel(x_test, x, test_gates, gates)
            kernels[name, seed] = dense.path_kernel(x, x, gates, gates), cross
        accuracies[seed] = (dense.outputs(weights, x_test, dense.hard).argmax(1) == y_test).mean()
    rows = {(row["kernel"], row["seed"]): row for row in result["regression"]}
    assert rows.keys() == kernels.keys()
    for name, (own, cross) in kernels.items():
        scores = dense.ridge(own, cross, y, rows[name]["regularization"])
        right = scores.argmax(1) == y_test
        assert rows[name]["test_accuracy"] == right.mean() and rows[name]["correct"] == as_digits(right), name
        assert rows[name].get("network_accuracy") == (accuracies[name[1]] if name[0] == "npk-learned" else None)
    drawn = [row["test_accuracy"] for name, row in rows.items() if name[1] is not None]
    assert len(set(drawn)) == 4, "the networks, and their gates before and after, can be told apart"


@pytest.mark.parametrize("case", ["FR-II", "ReLU", "soft"])
def test_descents_and_their_predictions_are_those_by_hand(finished, case):
    """The same network descended in NumPy, and ė = -K e solved for kernels by their formulas."""
    folder, result = finished
    row = next(row for row in result["flow"] if row["case"] == case)
    (x, labels), (x_test, test_labels) = inputs(folder, "flow_train"), inputs(folder, "flow_test")
    y, y_test = np.eye(10)[labels] - 0.1, np.eye(10)[test_labels] - 0.1
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), 1_000_000))
    weights, feature = (he_weights(key, 12, 10) for key in keys)
    gate, slope = dense.soft(4.0) if case == "soft" else (dense.hard, dense.hard)
    gates = [dense.gates(feature if case == "FR-II" else weights, one, gate) for one in (x, x_test)]
    both, train = np.concatenate([x, x_test]), slice(len(x))
    if case == "FR-II":
        gate = slope = dense.given([np.concatenate(pair) for pair in zip(*gates, strict=True)])
        known = slope_known = dense.given(gates[0])
    else:
        known, slope_known = gate, slope
    tangents, fixed = dense.tangents(weights, both, gate, slope), dense.tangents(weights, both, gate)
    kernels = {
        "ntk": dense.gram(tangents, [part[train] for part in tangents]),
        "value": dense.gram(fixed, [part[train] for part in fixed]),
        "npk": np.concatenate([dense.path_kernel(a, x, g, gates[0]) for a, g in zip((x, x_test), gates, strict=True)]),
    }
    step = 0.3 / np.linalg.eigvalsh(kernels["ntk"][train])[-1]
    assert row["step"] == pytest.approx(step, rel=1e-4)
    assert row["times"] == pytest.approx(step * np.array([0, 1, 2, 3, 4, 5, 6, 7, 8]), rel=1e-4)
    real, now = [dense.outputs(weights, both, gate)], weights
    for _ in range(8):
        now = dense.descended(now, x, y, step, known, slope_known)
        real.append(dense.outputs(now, both, gate))
    real, targets = np.array(real), np.concatenate([y, y_test])

    def curves(outputs):
        loss = 0.5 * np.square(outputs[:, train] - y).sum(2).mean(1)
        return loss, (outputs[:, len(x) :].argmax(2) != test_labels).mean(1)

    def agree(found, outputs):
        loss, wrong = curves(outputs)
        assert found["train_loss"] == pytest.approx(loss, rel=1e-3)
        assert found["test_error"] == pytest.approx(wrong)

    agree(row["real"], real)
    for name, kernel in kernels.items():
        values, vectors = np.linalg.eigh(kernel[train])
        gone = -np.expm1(-np.array(row["times"])[:, None] * values)
        gap = vectors.T @ (y - real[0, train])
        moved = (vectors / values) @ (gone[..., None] * gap)
        predicted = real[0] + kernel @ moved
        agree(row["predicted"][name], predicted)
        for part, of in (("train", train), ("test", slice(len(x), None))):
            far = np.linalg.norm((predicted - real)[:, of], axis=(1, 2)).max()
            size = np.linalg.norm(targets[of] - real[0, of])
            assert row["errors"][name][part] == pytest.approx(far / size, rel=2e-3), (name, part)


def test_only_where_gates_learn_is_the_tangent_kernel_more_than_its_value_part(finished):
    errors = {row["case"]: row["errors"] for row in finished[1]["flow"]}
    assert errors["FR-II"]["ntk"] == errors["FR-II"]["value"]
    assert errors["ReLU"]["ntk"] == errors["ReLU"]["value"]
    assert errors["soft"]["ntk"] != errors["soft"]["value"]


def test_a_killed_comparison_keeps_what_was_finished(continued):
    """To what numbers it continues: the last test here."""
    _, kept, result = continued
    assert not kept["finished"] and {row["width"] for row in kept["ladder"]} == {64}
    assert result["ladder"][:2] == kept["ladder"], "what was finished is not done again"


def test_a_comparison_is_not_mixed_with_another(finished, tmp_path):
    folder, _ = finished
    with pytest.raises(ValueError, match="another configuration .*seeds is 2 there and 3 here"):
        run_comparison(dataclasses.replace(TINY, seeds=3), folder, resume=True)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds no comparison"):
        run_comparison(TINY, tmp_path)


def of_means(shares):
    """Of the mean of a share of networks a sample, over samples."""
    return intervals.left_out(lambda kept: shares[kept].mean(keepdims=True), len(shares))[0, 1:]


def interval_of(right):
    """Of one network, or of the mean of several on the same samples."""
    return intervals.wilson(right[0]) if len(right) == 1 else of_means(np.mean(right, axis=0))


def test_the_report_is_one_page_with_each_number_by_its_name_and_what_it_is_told_as_text(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    result, told = read_json(tmp_path / "run" / "compare.json"), "<b>a & 'b'</b>"
    names, right, draws = list(LABELS), {}, np.random.default_rng(0)
    for row in result["regression"]:
        middle = names.index(row["kernel"]) / 100 + (0 if row["seed"] is None else (row["seed"] - 0.5) / 50)
        hit = draws.permutation(300) < round(300 * (0.1 + middle))
        right.setdefault(row["kernel"], []).append(hit)
        row |= {"test_accuracy": hit.mean(), "validation_accuracy": 0.2 + middle, "correct": as_digits(hit)}
    for row in result["flow"]:
        for number, error in enumerate(row["errors"].values()):
            error |= {"train": 0.3 + number / 100, "test": 0.4 + number / 100}
    result["data"] |= {"title": told, "source": told + "!"}
    result["config"]["dataset"] = result["versions"]["jax"] = told
    write_json(tmp_path / "run" / "compare.json", result)
    path = write_comparison_report(tmp_path / "run")
    (shown, data), page = page_of(path), path.read_text(encoding="utf-8")
    assert page.count("<figure") == 4 == page.count("<svg") and "$" not in shown.text and data is None
    assert f"{len(result['ladder']) // 2} draws a width" in page
    assert {path.name for path in (tmp_path / "run" / "figures").glob("*.png")} >= {"limits.png", "regimes.png"}
    assert "<b>a" not in page and shown.text.count(told) >= 4
    cells = {
        head: re.findall("<td>(.*?)</td>", row) for head, row in re.findall("<tr><th[^>]*>(.*?)</th>(.*?)</tr>", page)
    }
    for number, (name, label) in enumerate(LABELS.items()):
        low, high = interval_of(right[name])
        ends = f"{low:.1%} to {high:.1%}"
        assert cells[label] == [f"{20 + number}.00%", f"{10 + number}.00%", ends], "the mean over seeds"
    learned, random = (np.mean(right[f"npk-{gates}"], axis=0) for gates in ("learned", "random"))
    low, high = of_means(learned - random)
    assert low < 0 < high, "of these hits, drawn apart, nothing follows"
    said = f"{100 * (learned - random).mean():+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"
    assert f"no difference that 300 images can show: {said.replace('-', '−')}" in shown.sentences
    assert cells["ReLU"] == ["30.0%", "40.0%", "31.0%", "41.0%", "32.0%", "42.0%"]
    kinds = {"npk": "H", "ntk": "NTK", "nngp": "NNGP"}
    assert all(LABELS[f"{kind}-infinite"] == f"{shown}, infinite width" for kind, shown in kinds.items())


def test_the_command_prints_means_over_draws_and_seeds(finished, tmp_path, monkeypatch):
    """Of a finished run that is given again, without its page."""
    shutil.copytree(finished[0], tmp_path / "run")
    monkeypatch.setattr("npk.studies.pages.comparison_page._draw", lambda result: {})
    monkeypatch.setattr("npk.studies.pages.comparison_page.write_page", lambda folder, *_: folder / "report.html")
    command = ["compare", *options.words(TINY), "--out", str(tmp_path / "run"), "--resume"]
    printed, result = CliRunner().invoke(app, command, env={"COLUMNS": "200"}).stdout, finished[1]
    widest = [
        np.mean([r["errors"][curve] for r in result["ladder"] if r["width"] == 256]) for curve in result["slopes"]
    ]
    slopes = [f"{row['slope']:.2f}" for row in result["slopes"].values()]
    shown = [(f"{error:.1%}", slope) for error, slope in zip(widest, slopes, strict=True)]
    assert re.findall(r"(\S+%) +(\S+) +\[", printed) == shown
    for name, label in LABELS.items():
        rows = [row for row in result["regression"] if row["kernel"] == name]
        means = [np.mean([row[part] for row in rows]) for part in ("validation_accuracy", "test_accuracy")]
        right = [[digit == "1" for four in row["correct"] for digit in f"{int(four, 16):04b}"][:300] for row in rows]
        low, high = interval_of(np.array(right))
        expected = (*(f"{mean:.2%}" for mean in means), f"{low:.1%}–{high:.1%}")
        assert re.findall(rf"^{label} +(\S+) +(\S+) +(\S+)$", printed, re.M) == [expected]
    flow = [tuple(f"{row['errors'][kind]['test']:.1%}" for kind in ("ntk", "value", "npk")) for row in result["flow"]]
    assert re.findall(r" ([\d.]+%) +([\d.]+%) +([\d.]+%)$", printed, re.M) == flow


def test_a_comparison_without_intervals_is_told_to_be_run_anew_and_other_counts_are_no_runs(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    result = read_json(tmp_path / "run" / "compare.json")
    for change, said in (
        (lambda row: row.pop("correct"), "is of an earlier npk, and has no intervals: run it anew elsewhere"),
        (lambda row: row.update(correct="00"), "is not of 300 samples"),
    ):
        content = json.loads(json.dumps(result))
        change(content["regression"][2])
        write_json(tmp_path / "run" / "compare.json", content)
        with pytest.raises(ValueError, match=said):
            write_comparison_report(tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "resnet"}, "network must be one of mlp, c4gap.* got 'resnet'"),
        ({"depth": 1}, "depth must be at least 2"),
        ({"widths": (8,)}, "at least two different numbers"),
        ({"widths": (8, 16), "seeds": 1}, "at least three draws"),
        ({"flow_step": 0.0}, "flow_step must be more than 0"),
        ({"inputs": 1}, "inputs must be at least 2"),
    ],
)
def test_configurations_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        CompareConfig(**changes)


def test_the_command_that_an_interruption_prints_continues_it(tmp_path, monkeypatch):
    """Interrupted at the first kernels, twice: the second time by what was printed the first time."""

    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("npk.studies.comparison.Width.limits", interrupt)
    flags = "--depth 3 --widths 8,16 --seeds 2 --flow-step 0.2 --beta 3.0 --seed 4 --out"
    words = ["npk", "compare", "--data-dir", str(tmp_path), *flags.split(), str(tmp_path / "a run")]
    for _ in range(2):
        result = CliRunner().invoke(app, words[1:])
        assert result.exit_code == 130, result.output
        config = read_json(tmp_path / "a run" / "compare.json")["config"]
        assert [config[k] for k in ("depth", "widths", "flow_step", "beta", "seed")] == [3, [8, 16], 0.2, 3.0, 4]
        said = result.output + (result.stderr or "")
        words = shlex.split(next(line for line in said.splitlines() if line.lstrip().startswith("npk compare")))
        assert words[-1] == "--resume" and words[words.index("--data-dir") + 1] == str(tmp_path)


@pytest.mark.slow
def test_single_draws_close_in_as_one_over_the_root_of_the_width_and_dependent_gates_do_not(continued, tmp_path):
    """K^V of FR-II about its mean dσ^{2(d-1)}H has slope -1/2; K^V of FR-DI stays at the distance of the limits.

    What the two comparisons share is the same to the bit, though one of them was killed and continued.
    """
    # One draw is off by a factor of about e^0.4: 90 of them at these widths give the slope a standard error of 0.04.
    config = dataclasses.replace(TINY, widths=(64, 256, 1024), seeds=30)
    result, other = run_comparison(config, tmp_path), continued[-1]
    for curve in ("ii-draw", "ntk", "npk", "di"):
        fit = result["slopes"][curve]
        assert abs(fit["slope"] + 0.5) < 0.1, (curve, fit)
    gap = result["limit_gap"]
    widest = [row["errors"]["di-gap"] for row in result["ladder"] if row["width"] == 1024]
    assert gap > 0.1 and np.mean(widest) > 0.9 * gap
    assert abs(result["slopes"]["di-gap"]["slope"]) < 0.25 < abs(result["slopes"]["ii-draw"]["slope"])
    ladder = [row for row in result["ladder"] if row["width"] in TINY.widths and row["seed"] < TINY.seeds]
    apart = ("config", "files", "ladder", "slopes")
    assert numbers(other["ladder"]) == numbers(ladder)
    shared, alone = ({k: v for k, v in r.items() if k not in apart} for r in (other, result))
    assert numbers(shared) == numbers(alone)
