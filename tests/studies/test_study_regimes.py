"""The regimes beside a study: what is trained of each, and what the study says of them."""

import dataclasses

import jax
import numpy as np
import pytest
from read_pages import page_of
from small_studies import TINY, as_digits, saved_alone

import npk
from npk import networks
from npk.data import load
from npk.studies import read_study, run_study, study_regimes
from npk.studies.pages.study_page import write_report
from npk.studies.study_regimes import compared
from npk.training import Network, RegimeConfig, RegimeRun, train_regime

pytestmark = pytest.mark.standard_dtypes


def noted(monkeypatch, module, train):
    """What the module asks of `train_regime`, and what `train` has made of it."""
    runs = []

    def noting(*given, source):
        runs.append((given, train(*given, source=source)))
        return runs[-1][1]

    monkeypatch.setattr(module, "train_regime", noting)
    return runs


def test_the_row_of_a_stage_is_of_the_gates_of_that_stage(monkeypatch):
    """FL-1 of three stages, beside the values that it has trained, under the gates of its parameters."""
    model, whole = networks.MLP(width=8, depth=3, outputs=10, use_bias=False), load("digits")
    data = dataclasses.replace(whole, x_train=whole.x_train[:128], y_train=whole.y_train[:128])
    stages = [model.init(jax.random.key(number), data.x_train[:1]) for number in range(3)]
    network, options = Network(model.apply, model.init), {"epochs": 1, "batch_size": 64, "learning_rate": 0.05}
    runs, said = noted(monkeypatch, study_regimes, train_regime), []
    row = next(compared(network, stages, data, 3, options, 3, lambda number, text: said.append((number, text))))
    assert said == [(3, "regime FL-1")]
    [(given, run)] = runs
    assert given == (network, RegimeConfig("FL", stage=1, **options), data, (3,))
    feature, values = (jax.tree.map(lambda a: a[0], run.params[side]) for side in ("feature", "value"))
    assert all(map(np.array_equal, jax.tree.leaves(feature), jax.tree.leaves(stages[1])))
    gates, gated = jax.jit(npk.gates(model.apply)), jax.jit(npk.gated(model.apply))
    right, train = (
        np.asarray(gated(values, x, gates(stages[1], x))).argmax(1) == y
        for x, y in ((data.x_test, data.y_test), (data.x_train, data.y_train))
    )
    expected = {"test_accuracy": right.mean(), "train_accuracy": pytest.approx(train.mean())}
    assert row == {"label": "FL-1", "regime": "FL", **expected, "correct": as_digits(right)}


def by_hand(config, params, x):
    """Logits of two layers: the values' hidden units, each times the gate that the feature network gives it."""
    x = np.asarray(x, np.float64).reshape(len(x), -1)
    first, last = (np.asarray(params["value"]["params"][f"Dense_{i}"]["kernel"][0], np.float64) for i in (0, 1))
    shallow = config.regime == "DLGN-SF"
    layer = params["feature"][0] if shallow else params["feature"]["params"]["Dense_0"]
    q = x @ np.asarray(layer["kernel"][0], np.float64) + (np.asarray(layer["bias"][0]) if shallow else 0)
    gate = q > 0 if config.regime in ("FR-II", "FR-DI", "FL") else 1 / (1 + np.exp(-config.beta * q))
    return (x @ first * gate) @ last


@pytest.mark.slow
def test_regimes_stand_beside_the_network_and_are_continued(tmp_path, monkeypatch):
    """Two of them are trained: one that is trained beside, and the one whose gates are of another network."""
    config = dataclasses.replace(TINY, depth=2, stages=2, epochs=2, regimes=True)

    def trained(network, config, data, seeds, source):
        if config.regime in ("FR-II", "DLGN-SF"):
            return train_regime(network, config, data, seeds, source=source)
        accuracies = [np.full((2, 1), number / 100 + len(config.label) / 1000) for number in (1, 50, 60, 70)]
        draws = np.random.default_rng(list(config.label.encode()))
        params = {
            side: jax.tree.map(lambda a: a + 0.3 * draws.normal(size=a.shape).astype(a.dtype), source.params)
            for side in ("feature", "value")
        }
        return RegimeRun(config, seeds, np.arange(2.0), *accuracies, params)

    runs = noted(monkeypatch, study_regimes, trained)

    def stop(fraction, text):
        if text == "regime DL":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(config, tmp_path, progress=stop)
    kept = read_study(tmp_path)["regimes"]
    assert [row["label"] for row in kept] == ["FR-II", "FR-DI", "FL-0", "FL-1"]
    study = run_study(config, tmp_path, resume=True)
    assert study["regimes"][:4] == kept
    assert [row["label"] for row in study["regimes"][4:]] == ["DL", "DLGN", "DLGN-SF"]
    options = {"epochs": 2, "batch_size": 64, "learning_rate": 0.01, "beta": 4.0}
    asked = [("FR-II", None), ("FR-DI", None), ("FL", 0), ("FL", 1), ("DL", None), ("DLGN", None), ("DLGN-SF", None)]
    assert [given[1] for given, _ in runs] == [RegimeConfig(name, stage=stage, **options) for name, stage in asked]
    assert {given[3] for given, _ in runs} == {(0,)}
    data = load("digits")
    for row, (_, run) in zip(study["regimes"], runs, strict=True):
        right = by_hand(run.config, run.params, data.x_test).argmax(1) == data.y_test
        numbers = {"test_accuracy": right.mean(), "train_accuracy": run.train[-1, 0], "correct": as_digits(right)}
        assert row == {"label": run.config.label, "regime": run.config.regime, **numbers}
        if run.config.regime in ("FR-II", "DLGN-SF"):
            assert right.mean() == pytest.approx(run.test[-1, 0]), "as training has told it"
    assert len({row["correct"] for row in study["regimes"]}) == 7, "they can be told apart"
    model = networks.MLP(width=12, depth=2, outputs=10, use_bias=False)
    regime = RegimeConfig("FR-II", epochs=2, batch_size=64, learning_rate=0.01)
    alone = train_regime(Network(model.apply, model.init), regime, load("digits"), (0,))
    assert kept[0]["test_accuracy"] == pytest.approx(alone.test[-1, 0])
    assert kept[0]["train_accuracy"] == alone.train[-1, 0]
    saved_alone(monkeypatch, "regimes")
    page, _ = page_of(write_report(tmp_path))
    assert "Are the gates enough?" in page.text and (tmp_path / "figures" / "regimes.png").exists()
    assert all(f"{row['label']} {row['test_accuracy']:.1%}" in page.drawn for row in study["regimes"])
    random, learned = kept[2], kept[3]
    both = f"{random['test_accuracy']:.1%} with the gates of the first stage, {learned['test_accuracy']:.1%} with those"
    assert both in page.text


def test_gates_that_no_linear_network_makes_are_said_and_left_out():
    """Of norms and attention: DLGN and DLGN-SF have no row of numbers, and nothing is trained for them."""
    model, whole = networks.ViT((2, None), 4, 1, 1, 4, 10, activation=jax.nn.relu), load("digits")
    data = dataclasses.replace(whole, x_train=whole.x_train[:64], y_train=whole.y_train[:64])
    params = model.init(jax.random.key(0), data.x_train[:1])
    options = {"epochs": 1, "batch_size": 64, "learning_rate": 0.05}
    number = [name for name, _ in study_regimes.regime_names(2)].index("DLGN")
    rows = list(compared(Network(model.apply, model.init), [params] * 2, data, 0, options, number, lambda *_: None))
    assert [row["label"] for row in rows] == ["DLGN", "DLGN-SF"]
    assert all(row["test_accuracy"] is None and "norms, attention and gated products" in row["why"] for row in rows)
