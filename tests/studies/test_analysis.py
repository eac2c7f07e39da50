"""Models that npk does not bring, and their checkpoints: numbers against the public functions, one by one."""

import dataclasses

import equinox as eqx
import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_studies import saved_alone

import npk
from npk import solving
from npk.folders import read_json
from npk.loading import function_of
from npk.studies import AnalysisConfig, analyse, verify

pytestmark = pytest.mark.standard_dtypes

SMALL = AnalysisConfig(samples=24, test_samples=20)


class Linen(nn.Module):
    """A small convolution with leaky units, a skip and max-pooling."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(3, (3, 3))(x))
        x = x + nn.leaky_relu(nn.Conv(3, (3, 3))(x), 0.1)
        return nn.Dense(3)(nn.max_pool(x, (2, 2)).mean((1, 2)))


class Nnx(nnx.Module):
    def __init__(self, seed):
        rngs = nnx.Rngs(seed)
        self.inside, self.out = nnx.Linear(16, 6, rngs=rngs), nnx.Linear(6, 3, rngs=rngs)
        self.norm, self.drop = nnx.LayerNorm(6, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.out(self.drop(nnx.gelu(self.norm(self.inside(x.reshape(len(x), -1))))))


class Eqx(eqx.Module):
    inside: eqx.nn.Linear
    out: eqx.nn.Linear

    def __init__(self, seed):
        keys = jax.random.split(jax.random.key(seed))
        self.inside, self.out = eqx.nn.Linear(16, 6, key=keys[0]), eqx.nn.Linear(6, 3, key=keys[1])

    def __call__(self, x):
        return self.out(jax.nn.relu(self.inside(x.ravel())))


def data(count=60, seed=0):
    """Images of three classes."""
    random = np.random.default_rng(seed)
    y = np.arange(count) % 3
    x = random.normal(size=(count, 4, 4, 1)).astype(np.float32)
    x[:, :, :3, 0] += 1.5 * np.eye(3, dtype=np.float32)[y][:, None]
    return x, y


def of(kind):
    """f and two sets of parameters."""
    x = jnp.asarray(data()[0][:2])
    if kind is Linen:
        return Linen().apply, [Linen().init(jax.random.key(seed), x) for seed in (0, 1)]
    (f, first), (_, second) = (function_of(kind(seed), x) for seed in (0, 1))
    return f, [first, second]


@pytest.mark.parametrize("kind", [Linen, Nnx, Eqx])
def test_the_numbers_of_a_users_model_are_those_of_the_public_functions(kind, tmp_path, monkeypatch):
    saved_alone(monkeypatch)
    f, params = of(kind)
    x, y = data()
    x_test, y_test = data(30, 1)
    found = analyse(f, params, x, y, x_test=x_test, y_test=y_test, out=tmp_path / "run", config=SMALL)
    assert found.content == read_json(tmp_path / "run" / "study.json") and found.report.is_file()
    first, last = found.content["stages"]
    with np.load(tmp_path / "run" / "samples.npz") as samples:
        train, test = samples["train"], samples["test"]
    with np.load(tmp_path / "run" / "kernels" / "stage-1.npz") as arrays:
        saved = dict(arrays)
    chosen = jnp.asarray(x[train])
    np.testing.assert_allclose(saved["npk"], npk.path_kernel(f)(params[1], chosen), rtol=1e-5, atol=1e-7)
    soft = npk.softened(f, beta=SMALL.beta) if kind is not Nnx else f
    split = npk.split_ntk(soft)(params[1], chosen)
    np.testing.assert_allclose(saved["feature"], split.feature, rtol=1e-4, atol=1e-5)
    assert found.content["network"]["beta"] == (None if kind is Nnx else SMALL.beta)
    assert last["share"]["value"] == pytest.approx(np.trace(split.value) / np.trace(split.total), rel=1e-4)
    assert last["alignment"]["npk"] == pytest.approx(solving.alignment(saved["npk"], y[train]).value, abs=1e-6)
    logits = np.asarray(f(params[1], jnp.asarray(x_test)))
    assert last["test_accuracy"] == np.mean(logits.argmax(1) == y_test)
    ridge = solving.classify(saved["npk"], saved["npk_test"], y[train], y_test[test])
    assert last["ridge"]["test_accuracy"] == ridge.test_accuracy
    hard = [i for i, gate in enumerate(npk.gates(f)(params[0], chosen)) if len(np.unique(gate)) == 2]
    moved = solving.gate_flips(
        *([np.asarray(npk.gates(f)(p, chosen)[i]) for i in hard] for p in (params[1], params[0]))
    )
    assert last["gate_flips"]["layers"] == pytest.approx(moved) and first["gate_flips"]["all"] == (
        None if kind is Nnx else 0
    )
    assert set(last["gate_changes"]) == ({"scale", "soft"} if kind is Nnx else set())


def test_intervals_hold_their_values_and_changes_are_those_of_the_same_samples(tmp_path, monkeypatch):
    saved_alone(monkeypatch)
    f, params = of(Eqx)
    stages = analyse(f, params, *data(), out=tmp_path / "run", config=SMALL).content["stages"]
    first, last = stages
    for name in ("npk", "value", "ntk"):
        low, high = last["intervals"]["alignment"][name]
        assert low < last["alignment"][name] < high
        change, low, high = last["since"]["alignment"][name]
        assert change == pytest.approx(last["alignment"][name] - first["alignment"][name]) and low < change < high
    assert first["since"]["ridge"][0] == 0 and first["since"]["alignment"]["npk"] == [0, 0, 0]
    gain = last["ridge"]["test_accuracy"] - first["ridge"]["test_accuracy"]
    assert last["since"]["ridge"][0] == pytest.approx(gain)


def test_one_checkpoint_is_enough_and_a_notebook_shows_the_page(monkeypatch):
    saved_alone(monkeypatch)
    f, params = of(Eqx)
    found = analyse(f, params[:1], *data(), config=SMALL, model="A small net", title="three stripes")
    shown = found._repr_html_()
    assert shown.startswith("<iframe srcdoc=") and "A small net" in shown and "three stripes" in shown
    assert "since" not in found.report.read_text(encoding="utf-8").split("</style>")[1].split("<script")[0]
    folder = found.folder
    assert folder.is_dir()
    del found
    assert not folder.exists(), "a temporary folder goes with the result"


def test_checkpoints_of_files_are_read_one_at_a_time_and_named_by_their_files(tmp_path, monkeypatch):
    saved_alone(monkeypatch)
    f, params = of(Linen)
    for number, tree in enumerate(params):
        (tmp_path / f"epoch-{number}.msgpack").write_bytes(flax.serialization.to_bytes(tree))
    files = [tmp_path / f"epoch-{number}.msgpack" for number in range(2)]
    read = analyse(f, files, *data(), like=params[0], config=SMALL).content
    held = analyse(f, [("epoch-0", params[0]), ("epoch-1", params[1])], *data(), config=SMALL).content
    assert read["names"] == ["epoch-0", "epoch-1"] and read["identity"] == held["identity"]
    plain = [{k: v for k, v in stage.items() if k != "seconds"} for stage in read["stages"]]
    assert plain == [{k: v for k, v in stage.items() if k != "seconds"} for stage in held["stages"]]


class Interrupted(Exception):
    pass


def test_an_interrupted_analysis_goes_on_and_one_of_other_parameters_does_not(tmp_path, monkeypatch):
    saved_alone(monkeypatch)
    f, params = of(Eqx)
    run = tmp_path / "run"

    def stop(fraction, text):
        if text == "kernels of checkpoint 2":
            raise Interrupted

    with pytest.raises(Interrupted):
        analyse(f, params, *data(), out=run, config=SMALL, progress=stop)
    verdict = verify(run)
    assert verdict.kind == "an analysis" and verdict.harms == ("It is not finished.",)
    assert "resume=True" in verdict.advice
    with pytest.raises(FileExistsError, match="unfinished study"):
        analyse(f, params, *data(), out=run, config=SMALL)
    other = jax.tree.map(lambda a: a + 1, params[1])
    with pytest.raises(ValueError, match="checkpoints.checkpoint 2"):
        analyse(f, [params[0], other], *data(), out=run, config=SMALL, resume=True)
    with pytest.raises(ValueError, match="another configuration"):
        analyse(f, params, *data(), out=run, config=dataclasses.replace(SMALL, samples=20), resume=True)
    assert len(analyse(f, params, *data(), out=run, config=SMALL, resume=True).content["stages"]) == 2
    assert verify(run, repair=True).whole


def test_tokens_have_no_gram_matrix_and_all_else(monkeypatch):
    saved_alone(monkeypatch)
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = ((7, 5), (5, 8), (8, 2))
    p = {n: jax.random.normal(k, shape) for n, k, shape in zip(("e", "w", "v"), keys, shapes, strict=True)}
    tokens = np.random.default_rng(0).integers(0, 7, (60, 4))
    found = analyse(
        lambda p, t: jax.nn.relu(p["e"][t].mean(1) @ p["w"]) @ p["v"], [p], tokens, tokens[:, 0] // 4, config=SMALL
    )
    assert found.content["pixels"] is None and found.content["stages"][0]["alignment"]["npk"] > 0


F, PARAMS = (lambda p, x: jax.nn.relu(x @ p["w"]) @ p["v"]), {"w": np.eye(3), "v": np.ones((3, 2))}
X, Y = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32), np.arange(40) % 2


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"f": Linen()}, TypeError, "pass its `apply`"),
        ({"checkpoints": PARAMS}, TypeError, "checkpoints"),
        ({"checkpoints": []}, TypeError, "at least one, got none"),
        ({"checkpoints": ["a.npz"]}, ValueError, "a.npz is a file: give like="),
        ({"checkpoints": [("a", PARAMS), ("a", PARAMS)]}, ValueError, "two checkpoints are called 'a'"),
        ({"y": Y[:-1]}, ValueError, "x has 40 samples, and y 39 labels"),
        ({"y": np.arange(40) % 3}, ValueError, "a logit for each of the 3 classes"),
        ({"f": lambda p, x: F(p, x)[:, :1]}, ValueError, r"f may return jnp.concatenate\(\[-f, f\], axis=1\)"),
        ({"x": np.full((40, 3), np.nan)}, ValueError, "not finite"),
        ({"config": AnalysisConfig(samples=2)}, ValueError, "samples must be more than the 2 classes"),
        ({"f": lambda p, x: (x @ p["w"]) * (x @ p["w"]) @ p["v"]}, npk.UnsupportedOperation, "npk.as_gate"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_written(change, error, message, tmp_path):
    given = {"f": F, "checkpoints": [PARAMS], "x": X, "y": Y, **change}
    with pytest.raises(error, match=message):
        analyse(given.pop("f"), given.pop("checkpoints"), given.pop("x"), given.pop("y"), out=tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


def test_dead_paths_are_said():
    with pytest.raises(ValueError, match="at checkpoint 1 every path is closed"):
        analyse(F, [{"w": -np.eye(3), "v": np.ones((3, 2))}], np.abs(X), Y, config=AnalysisConfig(samples=10))


def test_checkpoints_are_added_to_an_analysis_and_what_it_has_is_kept(tmp_path, monkeypatch):
    saved_alone(monkeypatch)
    f, params = of(Eqx)
    run, added = tmp_path / "run", [*params, jax.tree.map(lambda a: a * 1.5, params[1])]
    whole = analyse(f, added, *data(), config=SMALL).content
    analyse(f, params, *data(), out=run, config=SMALL)
    kept = (run / "kernels" / "stage-1.npz").stat().st_mtime_ns
    moved = [added[0], jax.tree.map(lambda a: a + 1, params[1]), added[2]]
    before = (run / "study.json").read_bytes()
    for other, options in ((moved, {}), (added, {"config": dataclasses.replace(SMALL, beta=2.0)})):
        with pytest.raises(ValueError, match="another configuration"):
            analyse(f, other, *data(), out=run, resume=True, **{"config": SMALL, **options})
        assert (run / "study.json").read_bytes() == before
    found = analyse(f, added, *data(), out=run, config=SMALL, resume=True).content
    assert (run / "kernels" / "stage-1.npz").stat().st_mtime_ns == kept and found["finished"]
    assert [{k: v for k, v in stage.items() if k != "seconds"} for stage in found["stages"]] == [
        {k: v for k, v in stage.items() if k != "seconds"} for stage in whole["stages"]
    ]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (
            {"w": np.eye(3), "v": np.ones((3, 4))},
            r"checkpoint 2 is no checkpoint of the model of checkpoint 1: v is \[3, 4\]",
        ),
        ({"w": np.eye(3)}, r"checkpoint 2 .*: v is nothing here and \[3, 2\] there"),
        ({"w": np.full((3, 3), np.nan), "v": np.ones((3, 2))}, "checkpoint 2"),
    ],
)
def test_the_checkpoint_that_does_not_fit_is_named(second, message):
    with pytest.raises(ValueError, match=message):
        analyse(F, [PARAMS, second], X, Y)


def test_the_share_of_paths_that_begin_at_biases(monkeypatch):
    """Of one hidden layer: H = Σ_u G_u G'_u (⟨x, x'⟩ / d + 1) / h + 1, of which biases give Σ_u G_u G'_u / h + 1."""
    saved_alone(monkeypatch)
    p = {"w": np.eye(3), "b": np.full((1, 3), 0.1), "v": np.ones((3, 2)), "c": np.zeros((1, 2))}
    p = {name: jnp.asarray(leaf, jnp.float32) for name, leaf in p.items()}

    def f(p, x):
        return jax.nn.relu(x @ p["w"] + p["b"]) @ p["v"] + p["c"]

    found = analyse(f, [p], X, Y, x_test=X, y_test=Y, config=AnalysisConfig(samples=12))
    with np.load(found.folder / "samples.npz") as samples:
        x = X[samples["train"]]
    G = (x + 0.1 > 0).sum(1) / 3
    biases, whole = G + 1, G * ((x**2).sum(1) / 3 + 1) + 1
    assert found.content["stages"][0]["bias_share"] == pytest.approx(biases.sum() / whole.sum(), rel=1e-5)


def test_samples_are_found_wherever_f_has_them(monkeypatch):
    """A network of columns, whose gates are [units, samples], is the same network."""
    saved_alone(monkeypatch)

    def columns(p, x):
        return (p["v"].T @ jax.nn.relu(p["w"].T @ x.T)).T

    p = {"w": np.random.default_rng(1).normal(size=(3, 12)).astype(np.float32), "v": np.ones((12, 2), np.float32)}
    second = {"w": p["w"][::-1].copy(), "v": p["v"]}
    found = [analyse(g, [p, second], X, Y, x_test=X, y_test=Y, config=AnalysisConfig(samples=12)) for g in (F, columns)]
    rows, other = (one.content["stages"][1] for one in found)
    for name in ("gate_flips", "intervals", "alignment", "bias_share"):
        assert other[name] == rows[name], name
    packed = [np.load(one.folder / "kernels" / "stage-1.npz") for one in found]
    assert np.array_equal(packed[0]["open/0"], packed[1]["open/0"]) and packed[1]["units"].tolist() == [12]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"f": lambda p, x: x @ p["w"] @ p["v"]}, "f has no gates: it is linear in x"),
        ({"f": lambda p, x: (F(p, x), 1)}, "f must return one array .* and returns tuple"),
        ({"x": 0 * X}, "the inputs are zero at every sample"),
        ({"checkpoints": [("a\nb", PARAMS)]}, "of 1 to 80 characters that can be shown"),
        ({"checkpoints": [{"w": np.eye(3)}]}, r"f\(params, x\) fails for checkpoint 1 .*npk.loading.params_of"),
        ({"checkpoints": [{"w": 1e-30 * np.eye(3), "v": 1e-30 * np.ones((3, 2))}]}, "tangent kernel is zero"),
    ],
)
def test_what_no_number_would_mean_is_refused(change, message):
    given = {"f": F, "checkpoints": [PARAMS], "x": X, "y": Y, **change}
    with pytest.raises(ValueError, match=message):
        analyse(given.pop("f"), given.pop("checkpoints"), given.pop("x"), given.pop("y"), **given)
