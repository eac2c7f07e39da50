"""The published tables: what a run says of itself, selection, continuation, the command."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

from npk import networks, studies
from npk.cli import app
from npk.data import load, with_validation
from npk.folders import read_json
from npk.studies import TABLES, Scale, reproduction, table_rows
from npk.training import Network, Regime, RegimeConfig, train_regime

pytestmark = pytest.mark.standard_dtypes


SCALE = Scale(share=0.2, epochs=1, seeds=2)


@pytest.fixture(scope="module")
def digits_table():
    """The table of fully connected networks, on the digits."""
    table = dataclasses.replace(TABLES["fc-mnist"], dataset="digits", width=16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TABLES, "fc-mnist", table)
        yield "fc-mnist"


@pytest.fixture(scope="module")
def finished(digits_table, tmp_path_factory):
    """All rows of it, a fifth of the samples, one epoch, two seeds."""
    folder = tmp_path_factory.mktemp("reproduced")
    return folder, studies.reproduce(digits_table, folder, SCALE)


def test_every_published_figure_is_in_its_table():
    printed = {name: [row.published for row in table.rows] for name, table in TABLES.items()}
    assert printed["fc-mnist"] == [98.14, 96.02, 96.09, 98.22, 97.82]
    assert printed["gconv-cifar10"] == [80.32, 67.09, 67.08, 77.12, 79.68]
    assert printed["vconv-cifar10"] == [72.43, 64.86, 64.68, 69.45, 71.40]
    assert printed["fl-stages"] == [80.32, 67.09, 72.29, 74.42, 77.1, 78.4, 78.7, 79.43]
    assert printed["cob-odt"] == [90.6, 96.1, 97.4, 82.3, 94.3, 90.3]
    assert {"constant-input", "permuted-gates", "dlgn-cifar"} <= set(TABLES)
    for table in TABLES.values():  # an FL row takes its gates from a ReLU row before it
        regimes = [row.config.regime for row in table.rows]
        assert all(Regime.RELU in regimes[:i] for i, r in enumerate(regimes) if r == Regime.FL)


def test_a_run_says_what_is_smaller_and_how_it_was_selected(finished):
    folder, result = finished
    assert [row["label"] for row in result["rows"]] == ["ReLU", "FR-II", "FR-DI", "DL", "FL"]
    smaller = "0.2 of the samples (at least 200) and (square root) width (at least 4)"
    assert result["not as published"] == [smaller, "1 epochs", "2 seeds instead of 5"]
    assert "validation" in result["selection"]
    for row in result["rows"]:
        assert row["dataset"] == "Digits" and row["epochs"] == 1 and row["seeds"] == [0, 1]
    assert read_json(folder / "fc-mnist.json") == result
    assert table_rows(result)[0][2] == "98.14 ± 0.07"


def test_the_figures_of_a_row_are_those_of_its_run_alone(digits_table, tmp_path, monkeypatch):
    """FR-II again by itself: a fifth of the samples and the width, a twelfth held out, four epochs, two seeds."""
    table = TABLES[digits_table]
    monkeypatch.setitem(TABLES, digits_table, dataclasses.replace(table, rows=table.rows[1:2]))
    scale = Scale(share=0.2, epochs=4, seeds=2, learning_rate=0.1)
    (row,) = studies.reproduce(digits_table, tmp_path, scale)["rows"]
    whole = load("digits")
    some = np.random.default_rng(0).permutation(len(whole.x_train))[: round(0.2 * len(whole.x_train))]
    data = with_validation(dataclasses.replace(whole, x_train=whole.x_train[some], y_train=whole.y_train[some]), 1 / 12)
    model = networks.MLP(width=round(16 * 0.2**0.5), depth=6, outputs=10)
    config = RegimeConfig("FR-II", epochs=4, learning_rate=0.1)
    run = train_regime(Network(model.apply, model.init), config, data, (0, 1))
    chosen = [100 * run.test[run.validation[:, seed].argmax(), seed] for seed in (0, 1)]
    largest, last = 100 * run.test.max(0), 100 * run.test[-1]
    assert sum(chosen) < sum(largest) and run.test.shape == (5, 2), "the two can be told apart"
    for name, two in (("selected on validation", chosen), ("largest on test", largest), ("last epoch", last)):
        assert row[name]["mean"] == pytest.approx((two[0] + two[1]) / 2)
        assert row[name]["std"] == pytest.approx(abs(two[0] - two[1]) / 2**0.5)
    assert row["test by epoch"] == pytest.approx(100 * run.test.mean(1))
    assert row["training samples"] == len(data.x_train) == 263


def test_an_interrupted_run_goes_on_where_it_stood(digits_table, finished, tmp_path):
    def stop(share, text):
        if text.startswith("FL:"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        studies.reproduce(digits_table, tmp_path / "cut", SCALE, progress=stop)
    kept = json.loads((tmp_path / "cut" / "fc-mnist.json").read_text())
    assert len(kept["rows"]) == 4
    assert studies.reproduce(digits_table, tmp_path / "cut", SCALE)["rows"] == finished[1]["rows"]
    with pytest.raises(ValueError, match="holds another run"):
        studies.reproduce(digits_table, tmp_path / "cut", dataclasses.replace(SCALE, share=0.3))


def test_tables_in_one_folder_train_what_they_share_once(digits_table, tmp_path, monkeypatch):
    relu, *_, last = TABLES[digits_table].rows
    monkeypatch.setitem(TABLES, "one", dataclasses.replace(TABLES[digits_table], rows=(relu,)))
    monkeypatch.setitem(TABLES, "two", dataclasses.replace(TABLES[digits_table], rows=(relu, last)))
    scale = Scale(share=0.2, epochs=3, seeds=1)
    records = []
    first = studies.reproduce("one", tmp_path, scale, progress=lambda share, text: records.append(text))
    assert len([text for text in records if text.startswith("ReLU:")]) == 4
    records.clear()
    second = studies.reproduce("two", tmp_path, scale, progress=lambda share, text: records.append(text))
    assert second["rows"][0] == first["rows"][0] and second["rows"][1]["label"] == "FL"
    assert not [text for text in records if text.startswith("ReLU:")]
    other = studies.reproduce("two", tmp_path / "other", scale)
    assert other["rows"] == second["rows"]


def test_images_can_be_pooled_and_it_is_said(digits_table, tmp_path, monkeypatch):
    table = TABLES[digits_table]
    monkeypatch.setitem(TABLES, digits_table, dataclasses.replace(table, rows=table.rows[:1]))
    data = reproduction._data("digits", Scale(pool=2), None)
    whole = reproduction._data("digits", Scale(), None)
    expected = [[whole.x_test[5, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean() for j in range(4)] for i in range(4)]
    assert data.x_train.shape == (len(whole.x_train), 4, 4, 1)
    assert data.x_test[5, ..., 0] == pytest.approx(np.array(expected))
    result = studies.reproduce(digits_table, tmp_path, Scale(share=0.2, epochs=1, seeds=1, pool=4))
    assert "images averaged over 4 × 4 pixels" in result["not as published"]
    with pytest.raises(ValueError, match="pool = 3 must divide"):
        studies.reproduce(digits_table, tmp_path / "3", Scale(pool=3))


def test_some_networks_of_a_table(tmp_path):
    rows = reproduction._rows_of(TABLES["dlgn-cifar"], Scale(networks=("c4gap",), dataset="cifar10_jpeg"))
    assert [(row.network, row.config.regime) for row in rows] == [("c4gap", "ReLU"), ("c4gap", "DLGN")]
    with pytest.raises(ValueError, match="has the networks c4gap, vgg16-bn-average, resnet-bn-110"):
        studies.reproduce("dlgn-cifar", tmp_path / "out", Scale(networks=("mlp",)))
    assert not (tmp_path / "out").exists()


def test_one_data_set_of_a_table_keeps_its_published_figures(tmp_path):
    table, scale = TABLES["cob-odt"], Scale(dataset="cob_odt_20")
    assert [row.published for row in reproduction._rows_of(table, scale)] == [90.6, 96.1, 97.4]
    assert reproduction._begun(tmp_path / "x", {}, {}, table, scale)["not as published"] == ["only cob_odt_20"]
    other = reproduction._begun(tmp_path / "x", {}, {}, TABLES["dlgn-cifar"], Scale(dataset="cifar10_jpeg"))
    assert "cifar10_jpeg for cifar10 and cifar100" in other["not as published"]


def test_the_command_prints_published_beside_ours(tmp_path):
    options = ["--scale", "0.01", "--seeds", "1", "--dataset", "cob_odt_20", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, ["reproduce", "cob-odt", *options], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "97.40" in done.output and "Not as published: 0.01 of the epochs (at least 1) and samples" in done.output
    assert "batches of at most a tenth of the samples" in " ".join(done.output.split())
    wrong = CliRunner().invoke(app, ["reproduce", "fc-cifar", "--out", str(tmp_path)])
    assert wrong.exit_code == 1 and "unknown table" in wrong.output


def test_large_batches_shrink_with_the_data_and_rows_may_have_no_biases():
    table = TABLES["cob-odt"]
    relu, dlgn = table.rows[0], table.rows[1]
    assert reproduction._scaled(dlgn.config, Scale(), 18_333).batch_size == 1833
    assert reproduction._scaled(dlgn.config, Scale(), 900).batch_size == 90
    assert {reproduction._scaled(relu.config, Scale(), n).batch_size for n in (100, 18_333)} == {32}
    for row, biases in ((relu, True), (dlgn, False)):
        network, described = reproduction._network(row, table, Scale(), 2)
        params = network.init(jax.random.key(0), jnp.ones((1, 20)))
        assert ("bias" in params["params"]["Dense_0"]) == biases == ("no biases" not in described)


def test_what_is_given_in_numbers_is_what_is_run_and_what_is_said(tmp_path):
    config, scale = TABLES["fc-mnist"].rows[0].config, Scale(epochs=3, samples=400, learning_rate=1e-9)
    scaled = reproduction._scaled(config, scale, 366)
    assert (scaled.epochs, scaled.batch_size, scaled.learning_rate) == (3, 32, 1e-9)
    said = reproduction._begun(tmp_path / "x", {}, {}, TABLES["fc-mnist"], scale)["not as published"]
    assert said == ["3 epochs", "400 training samples, validation included", "learning rate 1e-09"]
    data = reproduction._data("digits", scale, None)
    assert len(data.x_train) + len(data.x_validation) == 400


def test_scales_out_of_range_are_refused():
    with pytest.raises(ValueError, match="share must be more than 0 and at most 1"):
        Scale(share=0.0)
    with pytest.raises(ValueError, match="at least 1"):
        Scale(seeds=0)
    with pytest.raises(ValueError, match="pool must be"):
        Scale(pool=0)
    with pytest.raises(ValueError, match="samples must be at least 200"):
        Scale(samples=199)
