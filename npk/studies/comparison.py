"""The second main job: a network's kernels at finite and at infinite width.

Three questions, each with its numbers. How fast do the tangent kernel K, its value part K^V and the path kernel H
tend to their limits as the network widens, and where does K^V stay away from H? How well does each of these kernels
classify? Does ė = -K e predict how a real wide network trains? A run folder holds everything:

    compare.json          configuration, versions, every number; written anew as each part ends
    limits.npz            the infinite-width kernels of the ladder's samples
    kernels/width-W.npz   the kernels of the first seed of width W
    samples.npz           which samples each part is of

`pages.comparison_page` draws it.
"""

import dataclasses
import os
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from npk import networks, solving
from npk.data import MOST_SEED, NAMES, Dataset, balanced
from npk.programs import program_hash
from npk.studies.fitting import TRAINED, check_kernels, check_network
from npk.studies.flow import CASES, measure
from npk.studies.regression import LABELS, classify, fixed_kernels, gates_of_a_network
from npk.studies.run_folder import Filling, Progress, Run, carry_out, identity_of
from npk.studies.samples import described, load_suited
from npk.studies.settings import (
    MOST,
    MOST_BETA,
    MOST_DEPTH,
    MOST_RATE,
    MOST_WIDTH,
    check_ranges,
    configuration,
    setting,
)
from npk.studies.widths import CURVES, NETWORKS, Width, errors, limit_gap, weight_layers
from npk.training import MOST_EPOCHS, SNAPSHOTS

_WIDTHS = {"mlp": (64, 128, 256, 512, 1024, 2048)}
_CHANNELS = (8, 16, 32, 64, 128)


_WIDTH, _REGRESSION, _FLOW = "How fast: width", "How well: kernel regression", "Does it predict: gradient flow"


@configuration
class CompareConfig:
    """Everything that determines a comparison's numbers.

    Gradient flow is the limit of `flow_step` 0; descent is stable below 2. Of the test samples, the trained networks
    see at most as many as training samples.

    Raises:
        ValueError: a number is out of its range, or the data set or network another.

    Example:
        >>> from npk.studies import CompareConfig
        >>> CompareConfig(network="c4gap").ladder
        (8, 16, 32, 64, 128)
    """

    dataset: str = setting(
        "digits", f"One of {', '.join(NAMES)}; or classes of it: mnist:4,7.", "Data", among=NAMES, parts=True
    )
    network: str = setting(
        "mlp", f"One of {', '.join(NETWORKS)} (all paths of one length); no biases.", "Network", among=NETWORKS
    )
    depth: int | None = setting(None, "Weight layers (mlp).", "Network", none="4", least=2, most=MOST_DEPTH)
    widths: tuple[int, ...] | None = setting(
        None,
        "Ladder of units or channels, as in 64,128,256.",
        _WIDTH,
        none="64,128,…,2048; channels 8,16,…,128",
        least=1,
        most=MOST_WIDTH,
    )
    seeds: int = setting(10, "Draws at each width.", _WIDTH, least=1, most=MOST)
    inputs: int = setting(64, "Training samples these kernels are of.", _WIDTH, least=2)
    samples: int = setting(1500, "Most training samples. Time: its cube.", _REGRESSION, least=1)
    test_samples: int = setting(10_000, "Most test samples.", _REGRESSION, least=1)
    gates_width: int | None = setting(
        None,
        "Of the networks that give random and learned gates.",
        _REGRESSION,
        none="the network's",
        least=1,
        most=MOST_WIDTH,
    )
    gates_seeds: int = setting(3, "How many such networks.", _REGRESSION, least=1, most=MOST)
    epochs: int = setting(40, "Passes that teach the gates.", _REGRESSION, least=1, most=MOST_EPOCHS)
    batch_size: int = setting(64, "Most samples a step there.", _REGRESSION, least=1)
    learning_rate: float = setting(1e-3, "Of Adam there.", _REGRESSION, above=0, most=MOST_RATE)
    flow_width: int | None = setting(
        None, "Of the networks that are trained.", _FLOW, none="the widest but one", least=1, most=MOST_WIDTH
    )
    flow_samples: int = setting(200, "Training samples, and test samples.", _FLOW, least=2)
    flow_steps: int = setting(600, "Full-batch gradient steps.", _FLOW, least=1, most=MOST)
    flow_step: float = setting(0.3, "Step × largest eigenvalue of K.", _FLOW, above=0, most=2)
    beta: float = setting(4.0, "Steepness of the soft gates.", _FLOW, above=0, most=MOST_BETA)
    seed: int = setting(0, "Of all random numbers.", "Run", least=0, most=MOST_SEED)

    def __post_init__(self) -> None:
        check_ranges(self)
        if len(set(self.ladder)) < 2:
            raise ValueError(f"widths must be at least two different numbers, got {list(self.ladder)}.")
        if len(self.ladder) * self.seeds < 3:
            raise ValueError("a slope with an interval needs at least three draws: more widths or seeds.")

    @property
    def ladder(self) -> tuple[int, ...]:
        """The widths, in ascending order."""
        return tuple(sorted(_WIDTHS.get(self.network, _CHANNELS) if self.widths is None else self.widths))

    @property
    def trained_width(self) -> int:
        """Of the networks whose gradient descent is followed."""
        return self.ladder[-2] if self.flow_width is None else self.flow_width


def run_comparison(
    config: CompareConfig,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    data_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run a comparison into a folder, or finish one that was interrupted there.

    Each width, each kernel's regression and each trained network is written as it ends; resuming gives the numbers of
    an uninterrupted run on the same machine and versions.

    Args:
        config: what to do.
        out: the run folder; it must be new or empty, unless resuming.
        resume: continue the comparison of the same configuration in `out`.
        data_dir: where prepared data sets lie, see `npk.data.load`.
        progress: called with the fraction done and what is being done.

    Returns:
        The content of `compare.json`.

    Raises:
        FileExistsError: `out` holds a comparison and `resume` is not set, or it holds something else.
        ValueError: the comparison in `out` has another configuration, or the configuration does not suit the data.

    Example:
        >>> import tempfile
        >>> from npk.studies import CompareConfig, run_comparison
        >>> config = CompareConfig(
        ...     depth=2, widths=(8, 16), seeds=2, inputs=6, samples=40, test_samples=20, gates_width=8,
        ...     gates_seeds=1, epochs=2, flow_width=8, flow_samples=10, flow_steps=5,
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = run_comparison(config, folder)
        >>> result["finished"], sorted(result["slopes"])
        (True, ['di', 'di-gap', 'ii', 'ii-draw', 'nngp', 'npk', 'ntk'])
    """
    settings = dataclasses.asdict(config) | {"widths": list(config.ladder)}

    def prepare() -> Filling:
        data = load_suited(config, data_dir)
        _check_memory(config, data)
        first = Width(config.network, config.depth, config.ladder[0], data.x_train[:1])
        programs = {"network": program_hash(first.f.apply, first.shapes, data.x_train[:1])}
        identity = identity_of({config.dataset: data.fingerprint}, **programs)
        return Filling(identity, lambda run: _Comparison(config, data, run).fill())

    return carry_out("compare", settings, out, _NOTHING, prepare, resume=resume, progress=progress)


def _check_memory(config: CompareConfig, data: Dataset) -> None:
    """Refuse networks and kernels that memory cannot carry: after the ladder it would be late."""
    count, test, one = len(data.x_train), len(data.x_test), data.x_train[:1]
    inputs, samples, flow = (min(n, count) for n in (config.inputs, config.samples, config.flow_samples))
    # Six kernels and four limits in single precision; one in single and in double; six, and one in double.
    check_kernels("inputs", config.inputs, inputs**2, 10 * 4)
    check_kernels("samples", config.samples, samples * (samples + min(config.test_samples, test)), 4 + 8)
    check_kernels("flow_samples", config.flow_samples, flow**2, 6 * 4 + 8)
    classes = len(data.class_names)
    # Two draws at each width; what is trained is kept along the way, but not in gradient descent.
    for field, width, outputs, copies in (
        ("widths", config.ladder[-1], 1, 2),
        ("gates_width", config.gates_width, classes, TRAINED + SNAPSHOTS),
        ("flow_width", config.trained_width, classes, TRAINED),
    ):
        network = networks.build(config.network, outputs=outputs, width=width, depth=config.depth, use_bias=False)
        check_network(field, width, network.init, one, copies)


_NOTHING = dict(data=None, weight_layers=None, limit_gap=None, ladder=[], slopes={}, regression=[], flow=[])


def _kernels(width: int) -> str:
    """The file of a width's arrays."""
    return f"kernels/width-{width}.npz"


class _Comparison:
    """One run folder being filled."""

    def __init__(self, config: CompareConfig, data: Dataset, run: Run):
        self.config, self.data, self.run = config, data, run
        self.key = jax.random.key(config.seed)
        self.chosen = {
            "ladder": balanced(data.y_train, config.inputs, config.seed),
            "train": balanced(data.y_train, config.samples, config.seed),
            "test": balanced(data.y_test, config.test_samples, config.seed),
            "flow_train": balanced(data.y_train, config.flow_samples, config.seed),
            "flow_test": balanced(data.y_test, config.flow_samples, config.seed),
        }
        run.write("samples.npz", **self.chosen)
        if run.content["data"] is None:
            run.set(data={**described(data), **{name: len(places) for name, places in self.chosen.items()}})

    def fill(self) -> None:
        self.ladder(self.run.between(0.0, 0.4))
        self.regression(self.run.between(0.4, 0.7))
        self.flow(self.run.between(0.7, 1.0))

    def part(self, train: str, test: str) -> dict[str, np.ndarray]:
        a, b = self.chosen[train], self.chosen[test]
        data = self.data
        return {"x": data.x_train[a], "y": data.y_train[a], "x_test": data.x_test[b], "y_test": data.y_test[b]}

    # --- how fast ---------------------------------------------------------------------------------

    def ladder(self, progress: Progress) -> None:
        """Errors of every draw at every width, and the slopes."""
        config, widths = self.config, self.config.ladder
        x = jnp.asarray(self.data.x_train[self.chosen["ladder"]])
        rows = self.run.content["ladder"]
        lost = {w for w in {row["width"] for row in rows} if not self.run.has(_kernels(w))}
        if lost:
            self.run.set(ladder=[row for row in rows if row["width"] not in lost])
        done = {row["width"] for row in self.run.content["ladder"]}
        limits = None if done == set(widths) and self.run.has("limits.npz") else self._limits(x)
        # A width costs about in proportion to itself, above a floor of compiling.
        costs = np.cumsum([0, *(w + 0.3 * max(widths) for w in widths)])
        for i, width in enumerate(widths):
            if width in done or limits is None:
                continue
            networks_of = Width(config.network, config.depth, width, x)
            rows = []
            for seed in range(config.seeds):
                now = costs[i] + (costs[i + 1] - costs[i]) * seed / config.seeds
                progress(float(now / costs[-1]), f"width {width}: draw {seed + 1}")
                begun = time.perf_counter()
                key = jax.random.fold_in(jax.random.fold_in(self.key, width), seed)
                kernels = networks_of.kernels(key, x)
                if seed == 0:
                    self.run.write(_kernels(width), **kernels)
                seconds = time.perf_counter() - begun
                rows.append({"width": width, "seed": seed, "errors": errors(kernels, limits), "seconds": seconds})
            every = [*self.run.content["ladder"], *rows]
            self.run.set(ladder=sorted(every, key=lambda row: (row["width"], row["seed"])))
        self.run.set(slopes={name: self._slope(name) for name in CURVES})

    def _limits(self, x: Any) -> dict[str, np.ndarray]:
        self.run.progress(0.0, "kernels at infinite width")
        model = Width(self.config.network, self.config.depth, self.config.ladder[0], x)
        limits = model.limits(x)
        self.run.write("limits.npz", **limits)
        self.run.set(limit_gap=limit_gap(limits), weight_layers=weight_layers(model.shapes))
        return limits

    def _slope(self, curve: str) -> dict[str, Any]:
        rows = self.run.content["ladder"]
        fit = solving.power_law([row["width"] for row in rows], [row["errors"][curve] for row in rows])
        what, reference, closes = CURVES[curve]
        return {"of": what, "from": reference, "expected": -0.5 if closes else 0.0, **dataclasses.asdict(fit)}

    # --- how well ---------------------------------------------------------------------------------

    def regression(self, progress: Progress) -> None:
        """Ridge regression with each kernel on the same split."""
        config, data = self.config, self.part("train", "test")
        done = {(row["kernel"], row["seed"]) for row in self.run.content["regression"]}
        count, outputs = 4 + 2 * config.gates_seeds, len(self.data.class_names)

        def say(text: str, share: float = 0.0) -> None:
            progress((min(count - 1, len(self.run.content["regression"])) + share) / count, text)

        def add(name: str, seed: int | None, kernel: Any, **more: float) -> None:
            if (name, seed) not in done:
                say(f"ridge regression, {LABELS[name]}")
                self.run.add("regression", {"kernel": name, "seed": seed, **classify(kernel, data), **more})

        for name, kernel in fixed_kernels(config.network, config.depth, data):
            add(name, None, kernel)
        for seed in range(config.gates_seeds):
            if ("npk-learned", seed) in done:
                continue
            kernels, accuracy = gates_of_a_network(
                networks.build(
                    config.network, outputs=outputs, width=config.gates_width, depth=config.depth, use_bias=False
                ),
                config.seed + seed,
                data,
                epochs=config.epochs,
                batch_size=config.batch_size,
                learning_rate=config.learning_rate,
                say=lambda share: say("learning gates", share),
            )
            for name, kernel in kernels.items():
                add(name, seed, kernel, **({"network_accuracy": accuracy} if name == "npk-learned" else {}))

    # --- does it predict --------------------------------------------------------------------------

    def flow(self, progress: Progress) -> None:
        """Real gradient descent beside its prediction, of each kind of gates."""
        config = self.config
        done = {row["case"] for row in self.run.content["flow"]}
        for i, (name, label) in enumerate(CASES.items()):
            if name in done:
                continue

            def say(share: float, i: int = i, label: str = label) -> None:
                progress((i + 0.1 + 0.9 * share) / len(CASES), f"descent, {label}")

            say(0.0)
            row = measure(
                name,
                config.network,
                config.trained_width,
                config.depth,
                self.part("flow_train", "flow_test"),
                len(self.data.class_names),
                key=jax.random.fold_in(self.key, 1_000_000),
                beta=config.beta,
                relative_step=config.flow_step,
                steps=config.flow_steps,
                say=say,
            )
            self.run.add("flow", row)
