"""The training regimes that separate what gates know from what weights know.

| regime | gates | values |
|---|---|---|
| ReLU | the network's own | trained |
| FR-II | hard, of a random network, frozen | trained, initialised independently |
| FR-DI | hard, of the initial value network itself, frozen | trained |
| FL-k | hard, of a ReLU run's stage k, frozen | trained, initialised independently |
| DL | soft, of a feature network that is trained too | trained |
| DLGN | soft, of a deep linear network that is trained too | trained |
| DLGN-SF | soft, of one linear map a layer, trained too | trained |

Every one is a composition over any network; `npk.training.train_regime` trains it.
"""

import dataclasses
import enum
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, PRNGKeyArray, PyTree

from npk.gating import DGN, DLGN, DLGN_SF, Function, shallow_features
from npk.programs import shown
from npk.training import initialisation
from npk.training.loops import SNAPSHOTS, cross_entropy


class Regime(enum.StrEnum):
    """How gates and values are trained; see the table of the module.

    Example:
        >>> from npk.training import Regime
        >>> Regime("FR-II").frozen, Regime.DL.frozen
        (True, False)

    Source: Lakshminarayanan & Singh 2020, section 3; 2021, section 3.
    """

    RELU = "ReLU"
    FR_II = "FR-II"
    FR_DI = "FR-DI"
    FL = "FL"
    DL = "DL"
    DLGN = "DLGN"
    DLGN_SF = "DLGN-SF"

    @property
    def frozen(self) -> bool:
        """Whether its gates stay as they are."""
        return self in (Regime.FR_II, Regime.FR_DI, Regime.FL)


@shown()
@dataclasses.dataclass(frozen=True)
class RegimeConfig:
    """One regime and how it is trained.

    Attributes:
        regime: of `Regime`.
        stage: of FL, the stage k of the ReLU run that gives the gates; None for its last.
        constant_input: the value network gets all ones instead of x.
        permute: layer l of the value network gets the gates of layer permute[l].
        beta: steepness of soft gates.
        epsilon: soft gates are (1 + ε)σ(βq).
        optimizer: "sgd", "momentum" or "adam".
        learning_rate: its (first) learning rate.
        schedule: "constant", or "cosine" to zero over all steps.
        weight_decay: decoupled, on weights alone.
        loss: "cross-entropy", or "squared" against one-hot targets.
        initial: of the weights, one of `npk.training.KINDS`.
        sigma: as of `npk.training.redraw`.
        epochs: passes over the training set.
        batch_size: samples a step.
        stages: parameters kept on the way, spread over the rise of training accuracy; 0 for none.

    Raises:
        ValueError: an option is unknown, out of range, or of another regime.

    Example:
        >>> from npk.training import RegimeConfig
        >>> RegimeConfig("FL", stage=2, constant_input=True).label
        'FL-2, constant input'
    """

    regime: str
    stage: int | None = None
    constant_input: bool = False
    permute: tuple[int, ...] | None = None
    beta: float = 4.0
    epsilon: float = 0.1
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    schedule: str = "constant"
    weight_decay: float = 0.0
    loss: str = "cross-entropy"
    initial: str = "default"
    sigma: float | None = None
    epochs: int = 10
    batch_size: int = 32
    stages: int = 0

    def __post_init__(self) -> None:
        _one_of("regime", self.regime, tuple(Regime))
        _one_of("optimizer", self.optimizer, tuple(_OPTIMIZERS))
        _one_of("schedule", self.schedule, ("constant", "cosine"))
        _one_of("loss", self.loss, tuple(_LOSSES))
        _one_of("initial", self.initial, initialisation.KINDS)
        if self.regime == Regime.RELU and (self.constant_input or self.permute):
            raise ValueError("constant_input and permute need gates from elsewhere: not in the regime ReLU.")
        if self.stage is not None and self.regime != Regime.FL:
            raise ValueError(f"stage belongs to the regime FL, got it for {self.regime}.")
        if self.stages == 1 or not 0 <= self.stages <= SNAPSHOTS:
            raise ValueError(
                f"stages must be 0 (none) or at least 2 (initial and trained) and at most {SNAPSHOTS}, "
                f"got {self.stages}."
            )
        for name in ("beta", "learning_rate", "sigma"):
            if (value := getattr(self, name)) is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value}.")
        for name, least in (("epsilon", 0), ("weight_decay", 0), ("epochs", 1), ("batch_size", 1)):
            if not least <= (value := getattr(self, name)) < math.inf:
                raise ValueError(f"{name} must be at least {least} and finite, got {value}.")

    @property
    def label(self) -> str:
        """What tables call it."""
        stage = "" if self.stage is None else f"-{self.stage}"
        rest = [
            "constant input" if self.constant_input else "",
            f"gates permuted {self.permute}" if self.permute else "",
        ]
        return ", ".join([f"{self.regime}{stage}", *filter(None, rest)])


def _one_of(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}.")


_OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": optax.sgd,
    "momentum": lambda rate: optax.sgd(rate, momentum=0.9),
    "adam": optax.adam,
}
_LOSSES: dict[str, Callable[[Any, Any], Any]] = {
    "cross-entropy": cross_entropy,
    "squared": lambda logits, y: (
        0.5 * jnp.square(logits - jax.nn.one_hot(y, logits.shape[1], dtype=logits.dtype)).sum(1)
    ),
}


def loss_of(config: RegimeConfig) -> Callable[[Any, Any], Float[jax.Array, " n"]]:
    """The loss of a configuration.

    Args:
        config: names it.

    Returns:
        (logits [N, K], classes [N]) → the loss of every sample [N].

    Example:
        >>> import jax.numpy as jnp
        >>> from npk.training import RegimeConfig, loss_of
        >>> loss_of(RegimeConfig("ReLU", loss="squared"))(jnp.array([[1.0, 1.0]]), jnp.array([0])).tolist()
        [0.5]
    """
    return _LOSSES[config.loss]


def optimizer_of(config: RegimeConfig, steps: int) -> optax.GradientTransformation:
    """The Optax optimiser of a configuration.

    Args:
        config: names it.
        steps: of the whole run, over which a schedule goes.

    Returns:
        The gradient transformation, weight decay on arrays of two or more axes included.

    Example:
        >>> import jax.numpy as jnp
        >>> from npk.training import RegimeConfig, optimizer_of
        >>> _ = optimizer_of(RegimeConfig("ReLU", optimizer="sgd"), 10).init({"w": jnp.ones(2)})
    """
    rate: Any = config.learning_rate
    if config.schedule == "cosine":
        rate = optax.cosine_decay_schedule(rate, max(1, steps))
    chosen = _OPTIMIZERS[config.optimizer](rate)
    if not config.weight_decay:
        return chosen
    weights = lambda tree: jax.tree_util.tree_map(lambda a: a.ndim > 1, tree)  # noqa: E731
    return optax.chain(chosen, optax.masked(_decay(rate, config.weight_decay), weights))


def _decay(rate: Any, weight_decay: float) -> optax.GradientTransformation:
    """Decoupled decay: θ ← θ - rate·decay·θ beside the optimiser's own step."""

    def update(updates: Any, count: Any, params: Any = None) -> Any:
        now: Any = rate(count) if callable(rate) else rate
        return jax.tree_util.tree_map(lambda u, p: u - now * weight_decay * p, updates, params), count + 1

    return optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)  # type: ignore[arg-type]


@shown()
@dataclasses.dataclass(frozen=True)
class Network:
    """A model as plain functions; what any framework's module can be turned into.

    Attributes:
        apply: (params, x) → logits [N, K].
        init: (key, x) → params; of x only the shape is used.
        forward: the training-time form (params, x) → (logits, new params) where it differs from apply, e.g.
            batch normalisation by the batch's statistics, whose new running statistics the new params carry.
        allow: as of `npk.gates`: what may stay in the gated networks though it is neither linear nor a gate.

    Example:
        >>> from npk import networks
        >>> from npk.training import Network
        >>> model = networks.MLP(width=8, depth=2, outputs=2)
        >>> Network(model.apply, model.init).forward is None
        True
    """

    apply: Function
    init: Callable[[PRNGKeyArray, Any], PyTree]
    forward: Callable[[Any, Any], tuple[Any, Any]] | None = None
    allow: tuple[str, ...] = ()


def compose(network: Network, config: RegimeConfig) -> tuple[Function, Callable[[Any, Any], tuple[Any, Any]]]:
    """The network of a regime, as it is evaluated and as it is trained.

    Args:
        network: the model.
        config: the regime.

    Returns:
        (params, x) → logits, and (params, x) → (logits, new params). params are the model's own for ReLU, else
        {"feature": Θ^F, "value": Θ^V}.

    Example:
        >>> from npk import networks
        >>> from npk.training import Network, RegimeConfig, compose
        >>> model = networks.MLP(width=8, depth=2, outputs=2)
        >>> apply, forward = compose(Network(model.apply, model.init), RegimeConfig("DL"))
    """
    keep = lambda f: lambda params, x: (f(params, x), params)  # noqa: E731
    trained = network.forward or keep(network.apply)
    if config.regime == Regime.RELU:
        return network.apply, trained
    options: dict[str, Any] = {"constant_input": config.constant_input, "permute": config.permute}
    options["allow"] = network.allow
    if config.regime.startswith("DL"):
        options |= {"beta": config.beta, "epsilon": config.epsilon}
    if config.regime == Regime.DLGN:
        return DLGN(network.apply, **options), DLGN(trained, has_aux=True, **options)
    if config.regime == Regime.DLGN_SF:
        apply, forward = DLGN_SF(network.apply, **options), DLGN_SF(trained, has_aux=True, **options)

        def keeping_maps(params: Any, x: Any) -> tuple[Any, Any]:
            logits, updated = forward(params, x)
            return logits, {"feature": params["feature"], "value": updated["value"]}

        return apply, keeping_maps
    # A frozen feature network is evaluated: its batch statistics are frozen too.
    feature = keep(network.apply) if Regime(config.regime).frozen else trained
    return DGN(network.apply, **options), DGN(trained, feature=feature, has_aux=True, **options)


def initial_params(network: Network, config: RegimeConfig, x: Any, seed: Any, gates: Any = None) -> PyTree:
    """The initial parameters of one seed.

    Args:
        network: the model.
        config: the regime.
        x: a batch, of which only the shape is used.
        seed: a whole number; it may be traced.
        gates: for FL, the parameters of the network that makes the gates.

    Returns:
        The model's own parameters for ReLU, else {"feature": Θ^F, "value": Θ^V}.

    Example:
        >>> import jax.numpy as jnp
        >>> from npk import networks
        >>> from npk.training import Network, RegimeConfig, initial_params
        >>> model = networks.MLP(width=8, depth=2, outputs=2)
        >>> both = initial_params(Network(model.apply, model.init), RegimeConfig("FR-DI"), jnp.ones((1, 3)), 0)
        >>> both["feature"] is both["value"]
        True
    """
    keys = jax.random.split(jax.random.key(seed), 4)

    def draw(key: Any) -> Any:
        return initialisation.redraw(network.init(key, x), key, config.initial, sigma=config.sigma)

    if config.regime == Regime.RELU:
        return draw(keys[0])
    if config.regime == Regime.FL:  # the ReLU run of the same seed began at keys[0]: these values begin elsewhere
        return {"feature": gates, "value": draw(keys[2])}
    if config.regime in (Regime.DL, Regime.FR_II, Regime.DLGN):
        both = jax.lax.map(draw, keys[:2])  # compiles what draws once, not twice
        return {side: jax.tree_util.tree_map(lambda a, i=i: a[i], both) for i, side in enumerate(("value", "feature"))}
    value = draw(keys[0])
    if config.regime == Regime.FR_DI:
        return {"feature": value, "value": value}
    maps = shallow_features(network.apply)(keys[1], value, x)
    kernels = [m["kernel"] for m in maps]  # [d, *gate]: all but the first axis are outputs
    flat = [k.reshape(len(k), -1) for k in kernels]
    drawn = initialisation.redraw(flat, keys[1], config.initial, sigma=config.sigma)
    feature = [{**m, "kernel": new.reshape(k.shape)} for m, k, new in zip(maps, kernels, drawn, strict=True)]
    return {"feature": feature, "value": value}
