"""A recorder in loops of Optax, NNX and Equinox; what it has recorded, as files and pictures."""

import csv
import gc
import struct
import sys
import weakref
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import optax
import pytest
from flax import nnx
from matplotlib.figure import Figure
from probes import OUTPUTS, WIDTH, Linen, N, X, Y, steps_of

import npk
from npk.tracking import GateRecord, Recorder

# ------------------------------------------------------------------------------------------- in real loops


@pytest.fixture(scope="module")
def trained():
    """The recorder of an Optax loop whose buffers are donated, and the params of its first and last step."""
    model, optimizer = Linen(), optax.adam(0.05)
    params = model.init(jax.random.key(0), X)
    state, recorder = optimizer.init(params), npk.track(model.apply, X, Y, every=5)

    def update(params, state):
        def loss(params):
            return optax.softmax_cross_entropy_with_integer_labels(model.apply(params, X), Y % OUTPUTS).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    update, kept = jax.jit(update, donate_argnums=(0, 1)), []
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for step in range(11):
            recorder(step, params)
            kept.append(jax.tree.map(np.array, params)["params"])
            params, state = update(params, state)
    return recorder, kept


@pytest.mark.standard_dtypes
def test_an_optax_loop_with_donated_buffers_is_recorded(trained):
    recorder, kept = trained
    assert steps_of(recorder) == [0, 5, 10]

    def opened(params):
        return X @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"][None] > 0

    flips = [(opened(kept[step]) != opened(kept[0])).mean() for step in (0, 5, 10)]
    assert recorder.table()["flips"] == pytest.approx(flips) and flips[-1] > 0
    assert np.isfinite([recorder.table()[name] for name in recorder.table() if name != "note"]).all()


@pytest.mark.standard_dtypes
def test_no_reference_to_params_is_kept():
    recorder = npk.track(Linen().apply, X, Y, every=1)
    for step in range(2):
        params = Linen().init(jax.random.key(step), X)
        held = [weakref.ref(leaf) for leaf in jax.tree.leaves(params)]
        recorder(step, params)
        del params
        gc.collect()
        assert not [ref for ref in held if ref() is not None]
    kept = recorder._measures["gates"]._first
    assert [(k.numbers.dtype, k.numbers.nbytes) for k in kept] == [(np.uint8, -(-N * WIDTH // 8))]


@pytest.mark.standard_dtypes
def test_an_nnx_loop_is_recorded():
    class Model(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            self.inner, self.outer = nnx.Linear(3, WIDTH, rngs=rngs), nnx.Linear(WIDTH, OUTPUTS, rngs=rngs)

        def __call__(self, x):
            return self.outer(nnx.relu(self.inner(x)))

    model = Model()
    optimizer = nnx.Optimizer(model, optax.sgd(0.5), wrt=nnx.Param)
    graph, _ = nnx.split(model)
    recorder = npk.track(lambda p, x: nnx.merge(graph, p)(x), X, Y, every=2)

    @nnx.jit
    def update(model, optimizer):
        def loss(model):
            return optax.softmax_cross_entropy_with_integer_labels(model(X), Y % OUTPUTS).mean()

        optimizer.update(model, nnx.grad(loss)(model))

    with jax.numpy_rank_promotion("allow"):
        for step in range(5):
            update(model, optimizer)
            record = recorder(step, nnx.state(model))
    opened = np.asarray(X @ model.inner.kernel[...] + model.inner.bias[...][None]) > 0
    assert record.dead == {"layer 1": (~opened).all(0).mean()} and steps_of(recorder) == [0, 2, 4]
    assert record.note == "" and np.isfinite(record.alignment)


def test_equinox_params_are_recorded():
    model = eqx.nn.MLP(3, OUTPUTS, WIDTH, 1, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_array)
    f = lambda p, x: jax.vmap(eqx.combine(p, static))(x)  # noqa: E731
    record = npk.track(f, X, Y, measures=("gates",)).record(0, params)
    opened = X @ np.asarray(model.layers[0].weight).T + np.asarray(model.layers[0].bias)[None] > 0
    assert record.always_open == {"layer 1": pytest.approx(opened.all(0).mean())}


# ------------------------------------------------------------------------------------------- tables


def events(folder):
    """Scalars of a file of events: (tag, step) → value."""
    from tensorboardX.proto.event_pb2 import Event

    (path,) = Path(folder).iterdir()
    content, found = path.read_bytes(), {}
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        event = Event.FromString(content[12 : 12 + length])
        found.update({(value.tag, event.step): value.simple_value for value in event.summary.value})
        content = content[12 + length + 4 :]
    return found


def test_files_are_read_as_the_table_that_was_written(trained, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed: pip install 'npk[tracking]'")
    recorder, _ = trained
    table = recorder.table()
    assert table["step"] == [0, 5, 10] and len({len(values) for values in table.values()}) == 1
    assert {"flips", "flips/layer 1", "dead/layer 1", "alignment", "trace/value", "effective_rank"} <= table.keys()
    recorder.to_csv(tmp_path / "run" / "records.csv")
    with (tmp_path / "run" / "records.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {
        name: [type(v)(row[name]) for v, row in zip(values, rows, strict=True)] for name, values in table.items()
    } == table
    recorder.to_parquet(tmp_path / "records.parquet")
    assert parquet.read_table(tmp_path / "records.parquet").to_pydict() == table
    assert recorder.to_pandas().to_dict("list") == table
    recorder.to_tensorboard(tmp_path / "events")
    found = events(tmp_path / "events")
    assert len(found) == 3 * (len(table) - 2)
    for step, value in zip(table["step"], table["dead/layer 1"], strict=True):
        assert found["dead/layer_1", step] == pytest.approx(value)


@pytest.mark.parametrize(
    ("package", "write"),
    [
        ("pandas", lambda recorder, path: recorder.to_pandas()),
        ("pyarrow", lambda recorder, path: recorder.to_parquet(path)),
        ("tensorboardX", lambda recorder, path: recorder.to_tensorboard(path)),
    ],
)
def test_a_package_that_is_missing_is_named(package, write, trained, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=rf"the package {package}: run `pip install 'npk\[tracking\]'`"):
        write(trained[0], tmp_path / "file")
    assert not list(tmp_path.iterdir())


def test_what_a_record_does_not_have_is_nan_in_the_table():
    record = GateRecord(step=0, seconds=1.0, elapsed=1.0, flips=0.5, flips_by_layer={"layer 1": 0.5})
    later = GateRecord(step=1, seconds=1.0, elapsed=2.0, changes={"given": 0.1}, note="why")
    recorder = Recorder({}, 1, 0.1)
    recorder._records = [record, later]
    table = recorder.table()
    assert list(table) == ["step", "seconds", "elapsed", "flips", "flips/layer 1", "note", "changes/given"]
    assert table["note"] == ["", "why"] and np.isnan([table["flips/layer 1"][1], table["changes/given"][0]]).all()


def test_curves_are_of_the_records_that_have_them(trained):
    def curves(figure):
        return [line for line in figure.axes[0].lines if len(line.get_xdata()) == 3]

    recorder, _ = trained
    figure = recorder.plot()
    assert isinstance(figure, Figure) and len(curves(figure)) == 5
    (line,) = curves(recorder.plot("dead"))
    assert line.get_xdata().tolist() == [0, 5, 10] and line.get_ydata().tolist() == recorder.table()["dead/layer 1"]
    assert len(curves(recorder.plot("trace", "alignment"))) == 5
    with pytest.raises(ValueError, match="no column 'rank': there are seconds, elapsed, flips"):
        recorder.plot("rank")
    with pytest.raises(ValueError, match="there are no records yet"):
        Recorder({}, 1, 0.1).plot()
    assert repr(Recorder({}, 1, 0.1)) == "Recorder(no records)"
