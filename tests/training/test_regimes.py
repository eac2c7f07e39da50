"""The regimes: what is trained and what stays, seeds together or apart, killed runs, damaged and full disks."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_runs import network, same

import npk
from npk import networks, training
from npk.data import load, with_validation
from npk.training import Network, Regime, RegimeConfig, redraw, train_regime

pytestmark = pytest.mark.standard_dtypes


def quick(regime, **options):
    return RegimeConfig(regime, epochs=2, learning_rate=3e-3, **options)


@pytest.fixture(scope="module")
def relu(data):
    return train_regime(network(), RegimeConfig("ReLU", epochs=6, learning_rate=3e-3, stages=4), data, (0, 1))


@pytest.fixture(scope="module")
def soft_gates(data):
    """A run of two seeds without stages."""
    return train_regime(network(), quick("DL"), data, (0, 5))


def layer(params, number):
    own = params["params"][f"Dense_{number}"]
    return np.asarray(own["kernel"], np.float64), np.asarray(own["bias"], np.float64)


def gates_by_hand(config, feature, x):
    """The gates of a regime as the papers define them, of a dense network of four layers, in NumPy."""
    found, h = [], x
    for number in range(3):
        if config.regime == "DLGN-SF":
            q = x @ np.asarray(feature[number]["kernel"], np.float64) + np.asarray(feature[number]["bias"], np.float64)
        else:
            kernel, bias = layer(feature, number)
            q = h @ kernel + bias
        soft = (1 + config.epsilon) / (1 + np.exp(-config.beta * q))
        found.append(soft if config.regime.startswith("DL") else q > 0)
        h = q if config.regime == "DLGN" else np.maximum(q, 0)
    return [found[number] for number in config.permute or range(3)]


def logits_by_hand(config, params, x):
    x = np.asarray(x, np.float64).reshape(len(x), -1)
    relu = config.regime == "ReLU"
    found = gates_by_hand(config, params if relu else params["feature"], x)
    h = np.ones_like(x) if config.constant_input else x
    for number in range(4):
        kernel, bias = layer(params if relu else params["value"], number)
        h = h @ kernel + bias
        h = h * found[number] if number < 3 else h
    return h


def check_last_record(run, data):
    """Loss and accuracies on each set, with the gates that the regime stands for."""
    sets = {
        "train": (data.x_train, data.y_train),
        "validation": (data.x_validation, data.y_validation),
        "test": (data.x_test, data.y_test),
    }
    for place in range(len(run.seeds)):
        params = jax.tree.map(lambda a, place=place: a[place], run.params)
        for name, (x, y) in sets.items():
            logits = logits_by_hand(run.config, params, x)
            # A sample whose two largest logits are closer than float32 can tell may fall to either side.
            assert getattr(run, name)[-1, place] == pytest.approx((logits.argmax(1) == y).mean(), abs=1.5 / len(y)), (
                name
            )
            if name == "train":
                loss = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y]
                assert run.loss[-1, place] == pytest.approx(loss.mean(), rel=1e-4)
    accuracies = [float(getattr(run, name)[-1].mean()) for name in sets]
    assert len(set(accuracies)) == 3, "the sets can be told apart"


@pytest.mark.parametrize("regime", ["FR-II", "FR-DI", "FL"])
def test_frozen_gates_stay_bit_for_bit_and_values_are_trained(regime, data, relu):
    config = quick(regime)
    run = train_regime(network(), config, data, (1,), source=relu)
    gates = jax.tree.map(lambda a: a[1], relu.params) if regime == "FL" else None
    before = training.initial_params(network(), config, data.x_train[:1], 1, gates)
    after = jax.tree.map(lambda a: a[0], run.params)
    assert same(after["feature"], before["feature"]) and not same(after["value"], before["value"])
    assert same(before["feature"], before["value"]) == (regime == "FR-DI")
    began = jax.tree.map(lambda a: a[1], relu.stages[0])
    assert same(before["value"], began) == (regime != "FL"), "not where the network that made the gates began"
    check_last_record(run, data)


@pytest.mark.parametrize(
    ("regime", "options"),
    [("DL", {}), ("DLGN", {"beta": 3.0, "epsilon": 0.3}), ("DLGN-SF", {"constant_input": True, "permute": (2, 0, 1)})],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_soft_gates_are_trained_with_the_values(regime, options, data, soft_gates):
    config = quick(regime, **options)
    run = soft_gates if regime == "DL" else train_regime(network(), config, data)
    for place, seed in enumerate(run.seeds):
        before = training.initial_params(network(), config, data.x_train[:1], seed)
        after = jax.tree.map(lambda a, place=place: a[place], run.params)
        for side in ("feature", "value"):
            assert not same(after[side], before[side])
    check_last_record(run, data)


def test_gates_of_stage_k_are_those_the_relu_run_had_there(data, relu):
    """Of the last one too, which is not asked for: `test_frozen_gates_stay_bit_for_bit_and_values_are_trained`."""
    assert len(relu.stages) == 4
    for first, second in zip(relu.stages, relu.stages[1:], strict=False):
        assert not same(first, second)
    for stage in (0, 2):
        run = train_regime(network(), quick("FL", stage=stage), data, (0, 1), source=relu)
        assert same(run.params["feature"], relu.stages[stage])
    assert same(relu.stages[-1], relu.params)
    whole = relu.epochs == np.round(relu.epochs)  # between epochs only the training set is looked at
    assert not whole.all() and len(relu.test_by_epoch) == whole.sum() == 7
    for held_out in (relu.test, relu.validation):
        np.testing.assert_array_equal(np.isfinite(held_out).all(1), whole)
    assert np.isfinite(relu.train).all() and np.isfinite(relu.selected).all()
    accuracy = [float(np.mean(relu.train[i])) for i in (0, -1)]
    assert accuracy[0] < 0.3 < 0.8 < accuracy[1]


def test_a_regime_is_the_plain_loop_it_stands_for(data):
    """Two epochs of FR-DI against a loop over steps written out with Optax."""
    config, net = quick("FR-DI", optimizer="momentum", weight_decay=0.01), network()
    run = train_regime(net, config, data, (3,))
    params = training.initial_params(net, config, data.x_train[:1], 3)
    f, optimizer = npk.DGN(net.apply), optax.sgd(3e-3, momentum=0.9)
    value, state = params["value"], optimizer.init(params["value"])
    key = jax.random.split(jax.random.key(3), 4)[3]

    @jax.jit
    def step(value, state, x, y):
        def loss(value):
            logits = f({"feature": params["feature"], "value": value}, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        updates, state = optimizer.update(jax.grad(loss)(value), state)
        decayed = jax.tree.map(lambda u, p: u - 3e-3 * 0.01 * p if p.ndim > 1 else u, updates, value)
        return optax.apply_updates(value, decayed), state

    for epoch in range(2):
        order = jax.random.permutation(jax.random.fold_in(key, epoch), len(data.x_train))
        for i in range(len(order) // 32):
            batch = order[32 * i : 32 * i + 32]
            value, state = step(value, state, data.x_train[batch], data.y_train[batch])
    for ours, theirs in zip(jax.tree.leaves(run.params["value"]), jax.tree.leaves(value), strict=True):
        np.testing.assert_allclose(ours[0], theirs, rtol=1e-4, atol=1e-6)


def test_seeds_trained_together_are_the_runs_of_each(data, soft_gates):
    for place, seed in enumerate(soft_gates.seeds):
        alone = train_regime(network(), soft_gates.config, data, (seed,))
        np.testing.assert_allclose(soft_gates.loss[:, place], alone.loss[:, 0], rtol=1e-4)
        assert np.abs(soft_gates.test[:, place] - alone.test[:, 0]).max() <= 2 / len(data.y_test)


def test_selection_is_by_the_validation_set_and_the_largest_on_test_is_named_so(data, relu, soft_gates):
    """That nothing is selected without one: `test_squared_loss_and_cosine_schedule_are_those_of_plain_optax`."""
    check_last_record(relu, data)
    for run in (relu, soft_gates):
        whole = np.isfinite(run.test).all(1)
        test, best = run.test[whole], run.validation[whole].argmax(0)
        np.testing.assert_array_equal(run.selected, [test[best[0], 0], test[best[1], 1]])
        np.testing.assert_array_equal(run.largest_on_test, np.max(test, axis=0))


def test_batch_norm_statistics_move_with_training_and_frozen_ones_stay(data):
    class Normalised(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            x = nn.BatchNorm(use_running_average=not train)(nn.Dense(12)(x.reshape(len(x), -1)))
            return nn.Dense(10)(nn.relu(x))

    model = Normalised()

    def forward(variables, x):
        logits, updated = model.apply(variables, x, train=True, mutable=["batch_stats"])
        return logits, {**variables, **updated}

    net = Network(model.apply, model.init, forward)
    small = with_validation(load("digits"), 1300)
    for regime in ("DLGN", "FR-II"):
        config = RegimeConfig(regime, epochs=1)
        run = train_regime(net, config, small)
        before = training.initial_params(net, config, small.x_train[:1], 0)
        statistics = {side: run.params[side]["batch_stats"] for side in ("feature", "value")}
        moved = {s: not same(jax.tree.map(lambda a: a[0], v), before[s]["batch_stats"]) for s, v in statistics.items()}
        assert moved == {"feature": regime == "DLGN", "value": True}


# ---------------------------------------------------------------------------------- initial weights


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian", "he", "uniform"])
def test_weights_are_redrawn_with_their_variance_and_biases_stay(kind):
    params = {"kernel": jnp.zeros((3, 3, 50, 40)), "bias": jnp.full(40, 7.0)}
    sigma = {"he": np.sqrt(2 / 450), "uniform": np.sqrt(1 / 3 / 450)}.get(kind, 0.3)
    drawn = redraw(params, jax.random.key(0), kind, sigma=0.3 if sigma == 0.3 else None)
    assert (drawn["bias"] == 7).all()
    assert abs(float(drawn["kernel"].std()) / sigma - 1) < 0.02
    assert (len(np.unique(np.abs(drawn["kernel"]))) == 1) == (kind == "bernoulli")
    if kind == "uniform":
        assert float(jnp.abs(drawn["kernel"]).max()) == pytest.approx(1 / np.sqrt(450), rel=1e-3)


@pytest.mark.parametrize("regime", ["ReLU", "FR-II", "DLGN", "DLGN-SF"])
def test_the_initial_weights_of_a_configuration_are_those_of_both_networks(regime):
    """Gates of images too: the fan-in of a shallow map is the number of pixels."""
    model = networks.C4GAP(channels=8, outputs=2)
    x = jnp.ones((1, 6, 6, 3))
    config = RegimeConfig(regime, initial="bernoulli", sigma=0.3)
    params = training.initial_params(Network(model.apply, model.init), config, x, 0)
    kernels = [leaf for leaf in jax.tree.leaves(params) if jnp.any(leaf)]  # biases are zero
    assert kernels and all((jnp.abs(kernel) == jnp.float32(0.3)).all() for kernel in kernels)
    he = training.initial_params(Network(model.apply, model.init), RegimeConfig("DLGN-SF", initial="he"), x, 0)
    first = he["feature"][0]["kernel"]
    assert first.shape == (108, 6, 6, 8) and float(first.std()) == pytest.approx(np.sqrt(2 / 108), rel=0.02)


def test_squared_loss_and_cosine_schedule_are_those_of_plain_optax():
    """Two epochs of Adam, two steps each, falling to zero as a half cosine; on data without a validation set."""
    data = load("digits")
    config = RegimeConfig(
        "ReLU", loss="squared", schedule="cosine", initial="bernoulli", learning_rate=3e-3, epochs=2, batch_size=600
    )
    run, net = train_regime(network(), config, data, (2,)), network()
    params = training.initial_params(net, config, data.x_train[:1], 2)
    optimizer = optax.adam(lambda count: 3e-3 * 0.5 * (1 + jnp.cos(jnp.pi * count / 4)))
    state, key = optimizer.init(params), jax.random.split(jax.random.key(2), 4)[3]

    @jax.jit
    def step(params, state, x, y):
        def loss(p):
            return 0.5 * jnp.square(net.apply(p, x) - jnp.eye(10)[y]).sum(1).mean()

        change, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, change), state

    for epoch in range(2):
        order = jax.random.permutation(jax.random.fold_in(key, epoch), len(data.x_train))
        for batch in (order[:600], order[600:1200]):
            params, state = step(params, state, data.x_train[batch], data.y_train[batch])
    for ours, theirs in zip(jax.tree.leaves(run.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(ours[0], theirs, rtol=1e-4, atol=1e-6)
    logits = net.apply(params, data.x_train)
    loss = 0.5 * np.square(np.asarray(logits) - np.eye(10)[data.y_train]).sum(1).mean()
    assert run.loss[-1, 0] == pytest.approx(loss, rel=1e-4)
    with pytest.raises(ValueError, match="no validation set"):
        _ = run.selected


@pytest.mark.parametrize("initial", ["default", "he"])
@pytest.mark.parametrize("regime", ["DL", "DLGN-SF"])
def test_no_two_draws_of_a_configuration_are_alike(data, regime, initial):
    """Of layers, of the two networks or maps, of seeds: random numbers of one key would be the same."""
    kernels = []
    for seed in (0, 1):
        params = training.initial_params(network(), RegimeConfig(regime, initial=initial), data.x_train[:1], seed)
        kernels += [np.asarray(a).ravel() for a in jax.tree.leaves(params) if a.shape in ((64, 12), (12, 12))]
    assert len(kernels) == {"DL": 12, "DLGN-SF": 12}[regime]
    pairs = [(a, b) for i, a in enumerate(kernels) for b in kernels[:i] if len(a) == len(b)]
    assert max(abs(np.corrcoef(a, b)[0, 1]) for a, b in pairs) < 0.4


# -------------------------------------------------------------------- killed, damaged, full, mistaken


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(({name: x}, f"{name} must be positive and finite, got {x}")
          for name in ("learning_rate", "beta", "sigma") for x in (0.0, float("inf"), float("nan"))),
        *(({name: x}, f"{name} must be at least 0 and finite, got {x}")
          for name in ("epsilon", "weight_decay") for x in (-0.1, float("inf"), float("nan"))),
        *(({name: 0}, f"{name} must be at least 1 and finite, got 0") for name in ("epochs", "batch_size")),
        *(({"stages": n}, f"stages must be 0 .* and at most 32, got {n}") for n in (1, -2, 33)),
    ],
)  # fmt: skip
def test_numbers_of_a_regime_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        RegimeConfig("DL", **changes)


def test_mistakes_are_said(data, relu):
    with pytest.raises(ValueError, match="regime must be one of ReLU, FR-II"):
        RegimeConfig("FRII")
    with pytest.raises(ValueError, match="not in the regime ReLU"):
        RegimeConfig("ReLU", constant_input=True)
    with pytest.raises(ValueError, match="stage belongs to the regime FL"):
        RegimeConfig("DL", stage=1)
    with pytest.raises(ValueError, match="give it as source"):
        train_regime(network(), quick("FL"), data)
    with pytest.raises(ValueError, match="asked for were"):
        train_regime(network(), quick("FL"), data, (7,), source=relu)
    with pytest.raises(ValueError, match="has 4 stages"):
        train_regime(network(), quick("FL", stage=4), data, source=relu)
    with pytest.raises(ValueError, match="diverged"):
        train_regime(network(), RegimeConfig("ReLU", optimizer="sgd", learning_rate=1e9, epochs=1), data)
    with pytest.raises(ValueError, match="different whole numbers"):
        train_regime(network(), quick("ReLU"), data, (1, 1))
    with pytest.raises(ValueError, match="unknown initialisation"):
        redraw({}, jax.random.key(0), "xavier")
    assert [r.frozen for r in Regime] == [False, True, True, True, False, False, False]


@pytest.mark.parametrize("regime", ["FR-II", "DL", "DLGN", "DLGN-SF"])
def test_what_is_no_gate_stays_in_a_regime_only_where_it_is_allowed(regime):
    def f(p, x):
        return jax.nn.softmax(jax.nn.relu(x @ p["w"])) @ p["v"]

    def init(key, x):
        return {"w": jax.random.normal(key, (x.shape[-1], 4)), "v": jax.random.normal(key, (4, 2))}

    x, config = jnp.ones((3, 5)), RegimeConfig(regime)
    for allow in ((), ("exp", "div")):
        network = training.Network(f, init, allow=allow)
        apply, forward = training.compose(network, config)
        params = training.initial_params(network, config, x, 0)
        if allow:
            np.testing.assert_array_equal(apply(params, x), forward(params, x)[0])
        else:
            with pytest.raises(npk.UnsupportedOperation, match="given its gates f is not linear"):
                apply(params, x)


@pytest.mark.parametrize("regime", ["FR-II", "DL"])
def test_patterns_and_scales_of_a_regime_are_of_the_feature_network_alone(regime):
    """The queries and keys of the values take no part; those of the features do, through patterns alone."""
    model = networks.ViT((2, None), 4, 1, 1, 4, 3, use_bias=False, activation=nn.relu)
    x = jax.random.normal(jax.random.key(0), (4, 4, 2, 1))
    net, config = Network(model.apply, model.init), RegimeConfig(regime)
    params = training.initial_params(net, config, x, 0)
    apply, _ = training.compose(net, config)
    gradient = jax.jit(jax.grad(lambda p: jnp.square(apply(p, x)).sum()))(params)
    size = jax.tree.map(lambda g: float(jnp.abs(g).max()), gradient)
    layer = {side: size[side]["params"]["layers_0"] for side in ("value", "feature")}
    attention = {side: {k: v["kernel"] for k, v in layer[side]["attention"].items()} for side in layer}
    for name in ("query", "key"):
        assert attention["value"][name] == 0 < attention["feature"][name]
    assert min(attention["value"]["value"], attention["value"]["out"], layer["value"]["mlp"]["in"]["kernel"]) > 0
    assert layer["value"]["norm_attention"]["scale"] > 0  # γ of the values is theirs; 1/σ is of the features


def test_values_under_their_own_gates_are_the_network():
    model = networks.ViT((2, None), 4, 1, 1, 4, 3, activation=nn.relu)
    x = jax.random.normal(jax.random.key(0), (3, 4, 2, 1))
    net, config = Network(model.apply, model.init), RegimeConfig("FR-DI")
    params = training.initial_params(net, config, x, 0)
    apply, _ = training.compose(net, config)
    np.testing.assert_allclose(apply(params, x), model.apply(params["value"], x), rtol=1e-5, atol=1e-6)
