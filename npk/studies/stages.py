"""One stage of a network after another: its kernels, and every number that is said of it, with its interval.

A stage is a set of parameters: of a network while it is trained, or a user's own checkpoint.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from npk import solving
from npk.data import Dataset, balanced
from npk.gating import Function, at_lines, gate_kinds, gate_shapes, gates, per_sample, sample_program, softened
from npk.path_kernels import gram, path_kernel
from npk.programs import Selection, in_parts, program_hash
from npk.studies.run_folder import Run
from npk.studies.samples import described
from npk.studies.showing import SHOWN, packed_gates, thumbnails
from npk.tangent_kernels import split_ntk

KERNELS = ("npk", "value", "feature", "cross", "ntk")
_PARTS = ("value", "feature", "cross")
_FEWEST, _MOST = 5, 20  # groups of a jackknife
_FEW = 32  # samples that the share of biases is of: it varies little between them
#: The content of a run of which nothing is done yet.
NOTHING = {"data": None, "network": None, "training": None, "names": [], "pixels": None, "stages": [], "regimes": []}


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
    """A function and what is asked of it at every stage: compiled once for all.

    Attributes:
        f: (params, x) → logits.
        beta: steepness of the soft gates that its tangent kernel is split with; None for its own gates.
    """

    f: Function
    beta: float | None
    logits: Callable[..., Any]
    gates: Callable[..., Any]
    path_kernel: Callable[..., Any]
    split: Callable[..., Any]

    def by_sample(self, params: Any, x: Any) -> list[np.ndarray]:
        """Its gates as [N, ...], wherever f has its samples."""
        program, n = sample_program(self.f, params, x), len(x)
        one = [tuple(shape.shape) for shape in gate_shapes(program)]
        sides = zip(self.gates(params, x), one, program.gate_places, strict=True)
        return [np.asarray(per_sample(gate, shape, n, place)) for gate, shape, place in sides]

    def programs(self, params: Any, x: Any) -> dict[str, str | None]:
        """Hashes of what it computes."""
        return {"network": program_hash(self.f, params, x)}

    def kinds(self, params: Any, x: Any) -> list[str]:
        """Of the gates, in call order: "activation" where a unit switches, else what they are."""
        switching = {"hard": "activation", "pool": "activation", "given": "activation", "identity": "activation"}
        return [switching.get(kind, kind) for kind in gate_kinds(self.f, params, x)]


def asked_of(f: Function, beta: float | None, *, gate_at: Sequence[str] = (), fixed: Selection = None) -> Asked:
    """What is asked of f; the split is of f with soft gates, or of f itself where beta is None."""
    f = at_lines(f, gate_at)
    split = split_ntk(f if beta is None else softened(f, beta=beta))
    return Asked(f, beta, jax.jit(f), jax.jit(gates(f)), path_kernel(f, fixed=fixed), split)


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """The samples that kernels are of, ordered by class, and those that their regression is scored on."""

    x: jax.Array
    labels: np.ndarray
    x_test: jax.Array
    test_labels: np.ndarray


def choose(data: Dataset, samples: int, test_samples: int, seed: int, run: Run) -> Samples:
    """Balanced samples of a data set; which they are, and what a page shows of them, is written."""
    train, test = balanced(data.y_train, samples, seed), balanced(data.y_test, test_samples, seed)
    labels, test_labels = data.y_train[train], data.y_test[test]
    shown = balanced(labels, SHOWN, seed)
    arrays = {"train": train, "train_labels": labels, "test": test, "test_labels": test_labels, "shown": shown}
    run.write("samples.npz", **arrays, **thumbnails(data.x_train[train[shown]]))
    return Samples(jnp.asarray(data.x_train[train]), labels, jnp.asarray(data.x_test[test]), test_labels)


def describe(data: Dataset, samples: Samples) -> dict[str, Any]:
    """What the page of a run says of its data set."""
    return {
        **described(data),
        "train": len(data.x_train),
        "test": len(data.x_test),
        "kernel_samples": len(samples.labels),
        "kernel_test_samples": len(samples.test_labels),
    }


def inputs_alone(samples: Samples, run: Run) -> dict[str, Any] | None:
    """What the inputs say without gates, by their Gram matrix Σ: the reference for every stage. Of tokens nothing."""
    if not jnp.issubdtype(samples.x.dtype, jnp.floating):
        run.write("inputs.npz", ridge_correct=np.zeros(0, bool))
        return None
    x, x_test = samples.x.reshape(len(samples.x), -1), samples.x_test.reshape(len(samples.x_test), -1)
    kernel = np.asarray(gram(x))
    if not kernel.any():
        raise ValueError(f"the inputs are zero at every sample, or too small for {kernel.dtype}: scale them.")
    ridge = solving.classify(kernel, np.asarray(gram(x_test, x)), samples.labels, samples.test_labels)
    run.write("inputs.npz", kernel=kernel, ridge_correct=ridge.correct)
    measured = _statistics({"inputs": kernel}, samples.labels)
    groups = _groups(samples.labels)
    (found,) = solving.jackknife(lambda kept: list(measured(kept).values()), len(samples.labels), groups=groups)
    return {
        "alignment": found.value,
        "ridge": _of_ridge(ridge),
        "intervals": {"alignment": _clipped(found), "ridge": _ends(solving.proportion(ridge.correct))},
    }


def fill_stages(
    run: Run,
    asked: Asked,
    stages: Sequence[Callable[[], Any]],
    known: Sequence[Mapping[str, Any]],
    data: Dataset,
    samples: Samples,
    progress: Callable[[float, str], None],
) -> None:
    """Compute the stages that are not there yet; each is written as it ends.

    `stages` give the parameters, `known` what is said of each beside what is measured here.
    """
    for stage, params in enumerate(stages):
        done = run.content["stages"]
        if stage < len(done) and run.has(kernels_file(stage)):
            continue
        progress(stage / len(stages), f"kernels of {run.content['names'][stage]}")
        found = _numbers(run, asked, stage, params(), stages[0], data, samples)
        run.set(stages=[*done[:stage], {**known[stage], **found}, *done[stage + 1 :]])


def kernels_file(stage: int) -> str:
    """The file of a stage's arrays."""
    return f"kernels/stage-{stage}.npz"


def _numbers(
    run: Run, asked: Asked, stage: int, params: Any, first: Callable[[], Any], data: Dataset, samples: Samples
) -> dict[str, Any]:
    """Kernels and numbers of one stage; the arrays are written here, the numbers by the caller."""
    start, x = time.perf_counter(), samples.x
    split, gates_now = asked.split(params, x), asked.by_sample(params, x)
    kernels = {
        "npk": np.asarray(asked.path_kernel(params, x)),
        **{part: np.asarray(getattr(split, part)) for part in _PARTS},
        "ntk": np.asarray(split.total),
    }
    check_alive(run.content["names"][stage], kernels, bool(run.content["training"]))
    test_kernel = np.asarray(asked.path_kernel(params, samples.x_test, x))
    ridge = solving.classify(kernels["npk"], test_kernel, samples.labels, samples.test_labels)
    correct = {
        "network_correct": solving.hits(_in_parts(asked.logits, params, data.x_test), data.y_test),
        "ridge_correct": ridge.correct,
    }
    spectra = {name: solving.spectrum(kernels[name]) for name in KERNELS if name != "cross" and kernels[name].any()}
    eigenvalues = {f"{name}_spectrum": found.eigenvalues for name, found in spectra.items()}
    kinds = asked.kinds(params, x[:1])
    shown = packed_gates(gates_now, kinds, run.read("samples.npz")["shown"])
    run.write(kernels_file(stage), **kernels, npk_test=test_kernel, **correct, **eigenvalues, **shown)
    before = run.read(kernels_file(0))
    moved, flips = _gates_moved(kinds, gates_now, asked.by_sample(first(), x) if stage else gates_now, len(x))
    now, then = (_statistics(side, samples.labels) for side in (kernels, before))
    intervals, since = _intervals(now, then, flips, samples.labels)
    against = {name: solving.paired_difference(correct[name], before[name]) for name in correct}
    alone = run.read("inputs.npz")["ridge_correct"]
    values = now(np.arange(len(x)))
    return {
        "stage": stage,
        "name": run.content["names"][stage],
        "train_accuracy": solving.accuracy(_in_parts(asked.logits, params, data.x_train), data.y_train),
        "test_accuracy": float(correct["network_correct"].mean()),
        **moved,
        "alignment": {name: values[f"alignment/{name}"] for name in KERNELS},
        "drift": {name: _drift(kernels[name], before[name]) for name in KERNELS},
        "effective_rank": {name: found.effective_rank().value for name, found in spectra.items()},
        "share": {part: values[f"share/{part}"] for part in _PARTS},
        "bias_share": _bias_share(asked, params, x),
        "ridge": _of_ridge(ridge),
        "intervals": {
            "test_accuracy": _ends(solving.proportion(correct["network_correct"])),
            "ridge": _ends(solving.proportion(ridge.correct)),
            **intervals,
        },
        "since": {
            "test_accuracy": _told(against["network_correct"]),
            "ridge": _told(against["ridge_correct"]),
            **since,
        },
        "beyond_inputs": _told(solving.paired_difference(ridge.correct, alone)) if alone.size else None,
        "seconds": time.perf_counter() - start,
    }


def _bias_share(asked: Asked, params: Any, x: Any) -> float:
    """The share of the trace of H that paths give which begin at a bias, and see no input: under the gates of x."""
    few = slice(min(len(x), _FEW))
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return 0.0  # an embedding is a weight: there is no input to be taken off
    held = asked.gates(params, x[few])
    whole, biases = (np.asarray(asked.path_kernel(params, some, gates1=held)) for some in (x[few], 0 * x[few]))
    size = float(np.trace(whole, dtype=np.float64))
    return float(np.trace(biases, dtype=np.float64)) / size if size > 0 else 0.0


def _in_parts(f: Callable[[Any, Any], Any], params: Any, x: np.ndarray) -> Any:
    return in_parts(lambda part: f(params, part), x)


def check_alive(stage: str, kernels: Mapping[str, np.ndarray], trained: bool) -> None:
    """Refuse, with a ValueError, kernels that are zero: no measure has a meaning for them."""
    if not kernels["npk"].any():
        advice = "lower the learning rate" if trained else "its gates say nothing"
        raise ValueError(f"at {stage} every path is closed at every sample: {advice}.")
    if not kernels["ntk"].any():
        raise ValueError(f"at {stage} the tangent kernel is zero: parameters are too small for {kernels['ntk'].dtype}.")


def _drift(kernel: np.ndarray, reference: np.ndarray) -> float:
    """0 where both vanish: a part that is not there has not turned."""
    return solving.drift(kernel, reference) if kernel.any() or reference.any() else 0.0


def _of_ridge(found: solving.Classified) -> dict[str, float]:
    return {
        "regularization": found.regularization,
        "validation_accuracy": found.validation_accuracy,
        "test_accuracy": found.test_accuracy,
    }


# --- intervals --------------------------------------------------------------------------------------


def _statistics(kernels: Mapping[str, np.ndarray], labels: np.ndarray) -> Callable[[np.ndarray], dict[str, float]]:
    """What is measured of kernels on some of their samples: alignments, and shares of the trace of K."""
    named = {name: np.asarray(kernels[name], np.float64) for name in (*KERNELS, "inputs") if name in kernels}

    def on(kept: np.ndarray) -> dict[str, float]:
        square, ours = np.ix_(kept, kept), labels[kept]
        found = {f"alignment/{name}": solving.alignment(k[square], ours).value for name, k in named.items()}
        if "ntk" in named:
            traces = {part: float(np.trace(named[part][square])) for part in (*_PARTS, "ntk")}
            found |= {f"share/{part}": traces[part] / traces["ntk"] if traces["ntk"] else 0.0 for part in _PARTS}
        return found

    return on


def _intervals(
    now: Callable[[np.ndarray], dict[str, float]],
    then: Callable[[np.ndarray], dict[str, float]],
    flips: np.ndarray,
    labels: np.ndarray,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Intervals of what is measured, and of how it differs from the first stage, by one jackknife of the samples."""
    names = list(now(np.arange(len(labels))))

    def statistic(kept: np.ndarray) -> list[float]:
        ours, theirs = now(kept), then(kept)
        return [*ours.values(), *(ours[name] - theirs[name] for name in names), float(flips[kept].mean())]

    *found, flipped = solving.jackknife(statistic, len(labels), groups=_groups(labels))
    intervals: dict[str, Any] = {"gate_flips": _ends(flipped), "alignment": {}, "share": {}}
    since: dict[str, Any] = {"alignment": {}, "share": {}}
    for name, own, change in zip(names, found, found[len(names) :]):
        what, _, which = name.partition("/")
        intervals[what][which] = _clipped(own) if what == "alignment" else _ends(own)
        since[what][which] = _told(change)
    return intervals, since


def _groups(labels: np.ndarray) -> np.ndarray:
    """Groups of samples ordered by class, each with its share of every class as far as classes are large enough."""
    _, sizes = np.unique(labels, return_counts=True)
    count = int(np.clip(sizes.min(), min(_FEWEST, len(labels)), _MOST))
    return np.concatenate([np.arange(size) for size in sizes]) % count


def _clipped(estimate: solving.Estimate) -> list[float]:
    """The ends of what lies between -1 and 1."""
    return [max(estimate.low, -1.0), min(estimate.high, 1.0)]


def _ends(estimate: solving.Estimate) -> list[float]:
    return [estimate.low, estimate.high]


def _told(estimate: solving.Estimate) -> list[float]:
    return [estimate.value, estimate.low, estimate.high]


# --- gates ------------------------------------------------------------------------------------------


def _gates_moved(
    kinds: Sequence[str], now: Sequence[Any], before: Sequence[Any], samples: int
) -> tuple[dict[str, Any], np.ndarray]:
    """What became of the gates since the first stage, and the share of switching gates that flipped, by sample.

    Of gates that switch the flips are counted; beside them stands what they would be had each unit forgotten where it
    started, and opened as often as it does now. Of other kinds it is the change.
    """
    found: dict[str, Any] = {"gate_flips": {"all": None, "layers": [], "forgotten": None}, "gate_changes": {}}
    by_sample = np.zeros(samples)
    for kind in dict.fromkeys(kinds):
        ours, theirs = ([np.asarray(g) for g, k in zip(side, kinds) if k == kind] for side in (now, before))
        weights = [gate.size for gate in ours]
        if kind != "activation":
            layers = solving.gate_changes(ours, theirs)
            found["gate_changes"][kind] = {"all": float(np.average(layers, weights=weights)), "layers": layers}
            continue
        layers = solving.gate_flips(ours, theirs)
        flipped = [(a != b).reshape(len(a), -1) for a, b in zip(ours, theirs)]
        by_sample = np.concatenate(flipped, axis=1).mean(axis=1)
        found["gate_flips"] = {"all": float(by_sample.mean()), "layers": layers, "forgotten": _forgotten(ours, theirs)}
    return found, by_sample


def _forgotten(now: Sequence[np.ndarray], before: Sequence[np.ndarray]) -> float:
    """The share of gates that would differ were both drawn apart, each unit open as often as it is."""
    chances = []
    for a, b in zip(now, before):
        p, q = ((side == 1).reshape(len(side), -1).mean(axis=0) for side in (a, b))
        chances.append(p * (1 - q) + q * (1 - p))
    return float(np.concatenate(chances).mean())
