import dataclasses
import shutil
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import intervals
from small_studies import TINY, saved_alone
from tolerances import assert_close

import npk
from npk import networks, solving
from npk.data import load
from npk.folders import read_json, write_json
from npk.studies import StudyConfig, read_study, run_study
from npk.studies.pages.study_page import write_report
from npk.studies.stages import check_alive

pytestmark = pytest.mark.standard_dtypes

DEALT = np.tile(np.arange(4), 10)  # of ten classes of four samples each group has one


def without_times(value):
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k != "seconds"}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def arrays_of(folder):
    return {
        f"{path.name}/{name}": array
        for path in sorted([*folder.glob("*.npz"), *folder.glob("kernels/*.npz")])
        for name, array in np.load(path).items()
    }


class Interrupted(Exception):
    pass


def interrupt_at(stage):
    def progress(fraction, text):
        if text == f"kernels of stage {stage}":
            raise Interrupted

    return progress


def test_the_run_folder_holds_every_stage(finished):
    folder, result = finished
    assert read_json(folder / "study.json") == result
    assert result["finished"] and result["config"] == dataclasses.asdict(TINY)
    assert {"python", "jax", "flax", "numpy"} <= set(result["versions"])
    assert [stage["stage"] for stage in result["stages"]] == [0, 1, 2, 3]
    for stage in range(4):
        with np.load(folder / "kernels" / f"stage-{stage}.npz") as arrays:
            assert arrays["npk"].shape == arrays["value"].shape == arrays["cross"].shape == (40, 40)
            assert arrays["npk_test"].shape == (30, 40)
            assert arrays["npk_spectrum"].shape == (40,)
    assert not list(folder.rglob("*.part"))


def test_the_kernel_samples_are_balanced_and_ordered_by_class(finished):
    folder, _ = finished
    data = load("digits")
    with np.load(folder / "samples.npz") as samples:
        assert np.array_equal(samples["train_labels"], np.repeat(np.arange(10), 4))
        assert np.array_equal(data.y_train[samples["train"]], samples["train_labels"])
        assert np.array_equal(samples["test_labels"], np.repeat(np.arange(10), 3))
        assert len(set(samples["train"].tolist())) == 40


def test_the_numbers_are_those_of_the_parameters(finished):
    """Everything at the last stage again, from parameters.npz, through the public functions."""
    folder, result = finished
    data, last = load("digits"), result["stages"][-1]
    with np.load(folder / "parameters.npz") as arrays:
        names = sorted({name.split("/")[2] for name in arrays if "/" in name})
        params, first = (
            {"params": {n: {"kernel": arrays[f"stage-{s}/params/{n}/kernel"]} for n in names}} for s in (3, 0)
        )
    with np.load(folder / "samples.npz") as samples:
        train, labels = samples["train"], samples["train_labels"]
        test, test_labels = samples["test"], samples["test_labels"]
    with np.load(folder / "kernels" / "stage-3.npz") as arrays, np.load(folder / "kernels" / "stage-0.npz") as initial:
        saved, begun = dict(arrays), dict(initial)
    x, x_test = jnp.asarray(data.x_train[train]), jnp.asarray(data.x_test[test])
    f, soft = (
        networks.MLP(width=12, depth=3, outputs=10, use_bias=False, activation=a).apply
        for a in (jax.nn.relu, npk.soft_relu)
    )
    kernel = npk.path_kernel(f)(params, x)
    assert_close(saved["npk"], kernel)
    split = npk.split_ntk(soft)(params, x)
    assert_close(saved["value"], split.value)
    assert_close(saved["feature"], split.feature)
    assert_close(saved["cross"], split.cross)
    assert_close(saved["value"] + saved["feature"] + saved["cross"], split.total)
    flips = solving.gate_flips(npk.gates(f)(params, x), npk.gates(f)(first, x))
    assert last["gate_flips"]["layers"] == pytest.approx(flips)
    assert last["alignment"]["npk"] == pytest.approx(solving.alignment(kernel, labels).value, abs=1e-6)
    for name in ("npk", "value", "feature", "cross", "ntk"):
        now, then = saved[name].astype(np.float64), begun[name].astype(np.float64)
        cosine = (now * then).sum() / np.sqrt((now**2).sum() * (then**2).sum())
        assert last["drift"][name] == pytest.approx(1 - cosine, abs=1e-9), "from the first stage"
        assert result["stages"][0]["drift"][name] == pytest.approx(0, abs=1e-12)
    for name in ("npk", "value", "feature", "ntk"):
        values = np.linalg.eigvalsh(saved[name].astype(np.float64))
        share = values[values > 0] / values[values > 0].sum()
        assert last["effective_rank"][name] == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-6)
    trace = {name: np.trace(saved[name]) for name in ("value", "feature", "cross")}
    assert last["share"] == pytest.approx({name: part / np.trace(saved["ntk"]) for name, part in trace.items()})
    flat = np.asarray(x, np.float64).reshape(40, -1)
    assert result["pixels"]["alignment"] == pytest.approx(solving.alignment(flat @ flat.T, labels).value, abs=1e-6)
    assert last["test_accuracy"] == solving.accuracy(f(params, data.x_test), data.y_test)
    assert last["train_accuracy"] == pytest.approx(solving.accuracy(f(params, data.x_train), data.y_train))
    fit = solving.kernel_ridge(saved["npk"], np.eye(10)[labels], regularization=last["ridge"]["regularization"])
    assert last["ridge"]["test_accuracy"] == solving.accuracy(fit.predict(saved["npk_test"]), test_labels)
    assert sum(last["share"].values()) == pytest.approx(1.0, abs=1e-6)
    assert_close(saved["npk_test"], npk.path_kernel(f)(params, x_test, x))


def centred_cosine(kernel, labels):
    n = len(labels)
    centring = np.eye(n) - 1 / n
    a, b = (centring @ matrix @ centring for matrix in (kernel, (labels[:, None] == labels[None]).astype(float)))
    return (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)


def test_intervals_are_those_of_the_samples_one_group_left_out_after_another(finished):
    """Of the last stage, and of its differences from the first and from the inputs: by the formulas of the papers."""
    folder, result = finished
    last = result["stages"][-1]
    first, now = (dict(np.load(folder / "kernels" / f"stage-{stage}.npz")) for stage in (0, 3))
    samples, plain = dict(np.load(folder / "samples.npz")), dict(np.load(folder / "inputs.npz"))
    labels, names, parts = samples["train_labels"], ("npk", "value", "feature", "cross", "ntk"), last["share"]

    def measured(arrays, kept):
        square = {name: arrays[name].astype(np.float64)[np.ix_(kept, kept)] for name in names}
        cosines = [centred_cosine(square[name], labels[kept]) for name in names]
        return np.array([*cosines, *(np.trace(square[part]) / np.trace(square["ntk"]) for part in parts)])

    own = intervals.left_out(lambda kept: measured(now, kept), 40, DEALT)
    since = intervals.left_out(lambda kept: measured(now, kept) - measured(first, kept), 40, DEALT)
    said = [("alignment", name) for name in names] + [("share", part) for part in parts]
    for (what, which), found, change in zip(said, own, since, strict=True):
        assert last[what][which] == pytest.approx(found[0], abs=1e-6)
        assert last["intervals"][what][which] == pytest.approx(found[1:], abs=1e-6)
        assert last["since"][what][which] == pytest.approx(change, abs=1e-6)
        assert result["stages"][0]["since"][what][which] == pytest.approx([0, 0, 0], abs=1e-12)
    for name, key, side in (("network_correct", "test_accuracy", last), ("ridge_correct", "ridge", last["ridge"])):
        assert now[name].mean() == side["test_accuracy"]
        assert last["intervals"][key] == pytest.approx(intervals.wilson(now[name]))
        assert last["since"][key] == pytest.approx(intervals.paired(now[name], first[name]))
    assert last["beyond_inputs"] == pytest.approx(intervals.paired(now["ridge_correct"], plain["ridge_correct"]))
    inputs = result["pixels"]
    assert inputs["intervals"]["ridge"] == pytest.approx(intervals.wilson(plain["ridge_correct"]))
    assert inputs["ridge"]["test_accuracy"] == plain["ridge_correct"].mean()
    sigma = plain["kernel"].astype(np.float64)
    (found,) = intervals.left_out(
        lambda kept: np.array([centred_cosine(sigma[np.ix_(kept, kept)], labels[kept])]), 40, DEALT
    )
    assert [inputs["alignment"], *inputs["intervals"]["alignment"]] == pytest.approx(found, abs=1e-6)


def test_gates_that_forgot_where_they_started_would_differ_as_two_draws_of_each_unit_do(finished):
    """And the share of gates that flipped has an interval over samples."""
    folder, result = finished
    params = dict(np.load(folder / "parameters.npz"))
    samples = dict(np.load(folder / "samples.npz"))
    x = load("digits").x_train[samples["train"]].reshape(40, -1)

    def gates(stage):
        hidden, found = x, []
        for layer in (0, 1):
            hidden = np.maximum(hidden @ params[f"stage-{stage}/params/Dense_{layer}/kernel"], 0)
            found.append(hidden > 0)
        return np.concatenate(found, axis=1)

    then, now = gates(0), gates(3)
    flips = result["stages"][3]["gate_flips"]
    p, q = then.mean(axis=0), now.mean(axis=0)
    assert flips["forgotten"] == pytest.approx((p * (1 - q) + q * (1 - p)).mean())
    drawn = [(then != now[np.random.default_rng(seed).permutation(40)]).mean() for seed in range(400)]
    assert flips["forgotten"] == pytest.approx(np.mean(drawn), abs=0.005), "two samples that have nothing in common"
    (found,) = intervals.left_out(lambda kept: np.array([(then != now)[kept].mean()]), 40, DEALT)
    assert [flips["all"], *result["stages"][3]["intervals"]["gate_flips"]] == pytest.approx(found)


def test_training_teaches_the_network_and_the_gates_flip(finished):
    _, result = finished
    accuracies = [stage["train_accuracy"] for stage in result["stages"]]
    assert accuracies[-1] > 0.6 and accuracies == sorted(accuracies)
    flips = [stage["gate_flips"]["all"] for stage in result["stages"]]
    assert flips[0] == 0.0 < flips[1] < flips[-1]


def test_a_study_interrupted_twice_keeps_what_it_has_and_ends_in_the_bits_of_an_uninterrupted_one(
    finished, tmp_path, monkeypatch
):
    """Before the first stage, of which there is no report, and before the third, of which there is one."""
    (folder, result), run = finished, tmp_path / "run"
    for stage in (0, 2):
        with pytest.raises(Interrupted):
            run_study(TINY, run, resume=stage > 0, progress=interrupt_at(stage))
        assert len(read_study(run)["stages"]) == stage
        if stage == 0:
            with pytest.raises(ValueError, match="no stage of the study .* is finished"):
                write_report(run)
    saved_alone(monkeypatch)
    assert "Unfinished: 2 of 4 stages" in write_report(run).read_text(encoding="utf-8")
    kept = [run / "parameters.npz", *(run / "kernels" / f"stage-{stage}.npz" for stage in (0, 1))]
    before = [path.stat().st_mtime_ns for path in kept]
    resumed = run_study(TINY, run, resume=True)
    assert [path.stat().st_mtime_ns for path in kept] == before, "what was finished is not done again"
    assert without_times(resumed) == without_times(result)
    expected, found = arrays_of(folder), arrays_of(run)
    assert expected.keys() == found.keys()
    assert all(np.array_equal(expected[name], found[name]) for name in expected)


def test_resuming_a_finished_study_changes_nothing(finished):
    folder, result = finished
    before = (folder / "study.json").stat().st_mtime_ns
    assert run_study(TINY, folder, resume=True) == result
    assert (folder / "study.json").stat().st_mtime_ns == before


def test_a_study_is_not_overwritten_nor_mixed_with_another(finished, tmp_path):
    folder, _ = finished
    with pytest.raises(FileExistsError, match="already holds a finished study: continue it with --resume, or choose"):
        run_study(TINY, folder)
    with pytest.raises(ValueError, match=r"another configuration \(width is 12 there and 13 here\)"):
        run_study(dataclasses.replace(TINY, width=13), folder, resume=True)
    older = read_study(shutil.copytree(folder, tmp_path / "older"))
    del older["config"]["depth"]
    write_json(tmp_path / "older" / "study.json", older)
    with pytest.raises(ValueError, match=r"another configuration \(depth is nothing there and 3 here\)"):
        run_study(TINY, tmp_path / "older", resume=True)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not empty and holds no study"):
        run_study(TINY, tmp_path)
    with pytest.raises(FileExistsError, match="is a file"):
        run_study(TINY, tmp_path / "mine.txt")


def test_dead_gates_are_said_with_what_to_do(tmp_path):
    """By the fourth step of this rate no gate opens. A feature part that is zero is no fault."""
    with pytest.raises(
        ValueError, match="at stage [123] every path is closed at every sample: lower the learning rate"
    ):
        run_study(dataclasses.replace(TINY, learning_rate=1000.0), tmp_path)
    with pytest.raises(ValueError, match="at epoch 2 every path is closed at every sample"):
        check_alive("epoch 2", {"npk": np.zeros((2, 2)), "ntk": np.ones((2, 2))}, trained=False)
    with pytest.raises(ValueError, match="at epoch 2 the tangent kernel is zero: .* too small for float64"):
        check_alive("epoch 2", {"npk": np.ones((2, 2)), "ntk": np.zeros((2, 2))}, trained=False)
    check_alive("epoch 2", {"npk": np.ones((2, 2)), "ntk": np.ones((2, 2)), "feature": np.zeros((2, 2))}, trained=False)


def test_a_study_that_cannot_begin_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError, match="fixed depth"):
        run_study(StudyConfig(network="c4gap", depth=3), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1 and at most 1000000, got 0"),
        ({"samples": 0}, "samples must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be more than 0"),
        ({"beta": -1.0}, "beta must be more than 0"),
        ({"seed": 2**32}, "seed must be at least 0 and at most 4294967295, got 4294967296"),
        ({"network": "lenet"}, "network must be one of mlp, "),
        ({"dataset": "emnist:4,7"}, "dataset must be one of digits, "),
        ({"stages": 1}, "stages must be at least 2"),
    ],
)
def test_configurations_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        StudyConfig(**changes)


def in_a_row(key, shape, dtype=float):
    """Normal weights: of four small axes a generator takes long to compile."""
    return jax.random.normal(key, (np.prod(shape),), dtype).reshape(shape) / 3


class Normalised(nn.Module):
    """What the networks with batch norm have, no more than once: of "SAME" and circular convolutions, and a skip."""

    activation: Any

    @nn.compact
    def __call__(self, x, train=False):
        def normalised(x, **options):
            x = nn.Conv(3, (3, 3), kernel_init=in_a_row, **options)(x)
            return nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)

        x = self.activation(normalised(x, strides=2))
        x = self.activation(x + normalised(x, padding="CIRCULAR"))
        return nn.Dense(10)(x.mean((1, 2)))


@pytest.mark.slow
def test_convolutional_networks_and_batch_norm_are_studied_too(tmp_path, monkeypatch):
    built = []

    def build(name, *, outputs, activation, **options):
        built.append((name, outputs, options))
        return Normalised(activation)

    monkeypatch.setattr("npk.networks.build", build)
    small = {"epochs": 1, "samples": 20, "test_samples": 10, "stages": 2, "regimes": False}
    config = StudyConfig(dataset="digits", network="resnet-bn", width=4, depth=8, **small)
    result = run_study(config, tmp_path / "run")
    assert built == [("resnet-bn", 10, {"width": 4, "depth": 8, "use_bias": False})], "hard gates and soft ones are one"
    last = result["stages"][-1]
    assert np.isfinite(list(last["alignment"].values())).all()
    assert sum(last["share"].values()) == pytest.approx(1.0, abs=1e-5)
    with np.load(tmp_path / "run" / "parameters.npz") as arrays:
        statistics = [name for name in arrays if name.startswith("stage-0/batch_stats")]
        assert len(statistics) == 4
        assert not any(np.array_equal(arrays[name], arrays[name.replace("0", "1", 1)]) for name in statistics)
    saved_alone(monkeypatch)
    assert write_report(tmp_path / "run").is_file()


def test_networks_whose_patterns_and_scales_are_gates_are_studied_too(tmp_path, monkeypatch):
    """Of those gates the change is said, and of a tiny transformer all kernels are there."""

    def build(name, *, outputs, activation, **options):
        assert name == "vit-rows"
        return networks.ViT((2, None), 4, 1, 1, 4, outputs, use_bias=False, activation=activation)

    monkeypatch.setattr("npk.networks.build", build)
    config = StudyConfig(
        dataset="digits", network="vit-rows", epochs=1, samples=20, test_samples=10, stages=2, regimes=False
    )
    result = run_study(config, tmp_path / "run")
    first, last = result["stages"]
    assert len(last["gate_flips"]["layers"]) == 1 and first["gate_flips"]["all"] == 0.0
    assert {kind: len(told["layers"]) for kind, told in last["gate_changes"].items()} == {"scale": 3, "pattern": 1}
    assert all(
        first["gate_changes"][kind]["all"] == 0.0 < last["gate_changes"][kind]["all"] < 0.5
        for kind in first["gate_changes"]
    )
    assert sum(last["share"].values()) == pytest.approx(1.0, abs=1e-5)
    saved_alone(monkeypatch)
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert "the patterns of its attention" in page and "ViT, 4 wide, 1 layer, no biases" in page


@pytest.mark.parametrize("network", ["vit", "vit-rows", "vit-tiny", "mixer", "convnext"])
def test_networks_with_norms_and_attention_can_be_chosen(network):
    assert StudyConfig(network=network).network == network
