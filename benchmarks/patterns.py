"""What patterns know: values trained under gates from elsewhere, of attention, norms and activations apart.

A small network is trained on each of three tasks: a vision transformer on the digits, whose tokens are the rows of an
image, and a decoder on two tasks of characters, drawn at random. Then networks that are linear given their gates are
trained on the same samples, from values of their own, under fixed gates: of a random network, of the trained network
after so many epochs, and of both, one kind of gates from the trained network and the others from the random one.
Beside them stands the network whose gates, of a second set of parameters, are trained along with its values.

Needs about 8 minutes on two cores and 2 GiB.
"""

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.stats

import npk
from benchmarks import harness
from npk import networks
from npk.data import load
from npk.training import Network, RegimeConfig, initial_params, over_seeds, steps_of

BATCH, BETA = 64, 4.0
KINDS = {"patterns": ("pattern",), "activations": ("hard",), "scales": ("scale",)}  # as a reading names them


@dataclasses.dataclass(frozen=True)
class Task:
    """Samples, of which the first `train` are trained on, and the network that is to learn them."""

    title: str
    model: Any
    x: np.ndarray
    y: np.ndarray
    train: int
    epochs: int
    rate: float
    marks: tuple[int, ...]  # the epochs whose gates are kept; that of the end is among them

    @property
    def test(self) -> int:
        return len(self.x) - self.train


def digits(small: bool) -> Task:
    """The rows of an image are its tokens."""
    data = load("digits")
    train, test = (128, 64) if small else (len(data.x_train), len(data.x_test))
    sides = ((data.x_train[:train], data.x_test[:test]), (data.y_train[:train], data.y_test[:test]))
    x, y = (np.concatenate(side) for side in sides)
    size: dict[str, Any] = (
        {"width": 4, "depth": 1, "heads": 1, "hidden": 4} if small else {"width": 16, "depth": 2, "heads": 2}
    )
    model = networks.ViT(patch=(1, None), activation=nn.relu, **size)
    marks = (0, 1, 2) if small else (0, 1, 2, 4, 8, 16, 40)
    return Task("digits, a token a row", model, x, y, train, marks[-1], 3e-3, marks)


def characters(title: str, x: np.ndarray, y: np.ndarray, marks: tuple[int, ...], small: bool) -> Task:
    """A decoder that answers after the last character."""
    train = 128 if small else 2 * len(x) // 3
    size: dict[str, Any] = (
        {"width": 4, "depth": 1, "heads": 1, "hidden": 4} if small else {"width": 16, "depth": 2, "heads": 2}
    )
    model = networks.GPT(
        vocabulary=int(x.max()) + 1,
        length=x.shape[1],
        outputs=int(y.max()) + 1,
        last=True,
        activation=nn.relu,
        **size,
    )
    marks = (0, 1, 2) if small else marks
    return Task(title, model, x, y, train, marks[-1], 3e-3, marks)


def look_up(small: bool, letters: int = 6, length: int = 6) -> Task:
    """Six letters and a digit: which letter stands at that place?  As "cabfdd2", of which the answer is b."""
    rng = np.random.default_rng(0)
    count = 192 if small else 3000
    x = rng.integers(0, letters, (count, length))
    asked = rng.integers(0, length, count)
    return characters(
        "look up a letter by its place",
        np.concatenate([x, letters + asked[:, None]], 1).astype(np.int32),
        x[np.arange(count), asked].astype(np.int32),
        (0, 1, 2, 3, 4, 6, 20),
        small,
    )


def seen_before(small: bool, letters: int = 8, length: int = 6) -> Task:
    """Six of eight letters: did the last of them stand before?  As "cafhda", of which the answer is yes."""
    rng = np.random.default_rng(1)
    x = rng.integers(0, letters, (192 if small else 3000, length)).astype(np.int32)
    y = (x[:, :-1] == x[:, -1:]).any(1).astype(np.int32)
    return characters("did the last letter stand before", x, y, (0, 1, 2, 4, 8, 16, 40), small)


TASKS = {"digits": digits, "look-up": look_up, "seen": seen_before}


class Trials:
    """A task's networks of all seeds; each kind of training is compiled once."""

    def __init__(self, task: Task, seeds: Sequence[int]):
        self.task, self.seeds = task, jnp.asarray(seeds)
        self.apply, self.x, self.y = task.model.apply, jnp.asarray(task.x), jnp.asarray(task.y)
        self.network = Network(task.model.apply, task.model.init)
        gated, soft = npk.gated(self.apply), npk.DGN(self.apply, beta=BETA)
        self.own = self._trainer(lambda params, _, i: self.apply(params, self.x[i]))
        self.given = self._trainer(lambda params, gates, i: gated(params, self.x[i], tuple(g[i] for g in gates)))
        self.learned = self._trainer(lambda params, _, i: soft(params, self.x[i]))
        self.gates = over_seeds(lambda params: npk.gates(self.apply)(params, self.x), (0,))

    def drawn(self, regime: str) -> Any:
        """Initial parameters of a regime, of all seeds."""
        config, x = RegimeConfig(regime), self.x[:1]
        return jax.jit(jax.vmap(lambda seed: initial_params(self.network, config, x, seed)))(self.seeds)

    def _trainer(self, f: Callable[[Any, Any, Any], Any]) -> Callable[..., Any]:
        """(params, rest) of all seeds → (params, accuracies) at the marks."""
        task, optimizer = self.task, optax.adam(self.task.rate)
        own, test = jnp.arange(task.train), jnp.arange(task.train, len(task.x))

        def loss(params: Any, rest: Any, i: Any, y: Any) -> tuple[Any, Any]:
            logits = f(params, rest, i)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), params

        advance = steps_of(loss, optimizer, BATCH)

        def epoch_of(params: Any, state: Any, rest: Any, seed: Any, epoch: Any) -> Any:
            key = jax.random.fold_in(jax.random.key(seed), epoch)
            return advance(params, state, rest, own, self.y[: task.train], key, 0, task.train // BATCH)

        epoch_of_all = over_seeds(epoch_of, (0, 0, 0, 0, None))
        accuracy = over_seeds(
            lambda params, rest: jnp.stack([(f(params, rest, i).argmax(1) == self.y[i]).mean() for i in (own, test)]),
            (0, 0),
        )

        def run(params: Any, rest: Any = None, marks: Sequence[int] = (task.epochs,)) -> list[tuple[Any, np.ndarray]]:
            rest = {} if rest is None else rest
            state, found = jax.vmap(optimizer.init)(params), []
            for epoch in range(task.epochs + 1):
                if epoch in marks:
                    found.append((params, np.asarray(accuracy(params, rest))))
                if epoch < task.epochs:
                    params, state = epoch_of_all(params, state, rest, self.seeds, epoch)
            return found

        return run

    def mixed(self, kinds: Iterable[str], trained: Any, random: Any) -> tuple[Any, ...]:
        """Gates of these kinds of the trained network, the others of the random one."""
        names = {name for kind in kinds for name in KINDS[kind]}
        return tuple(a if kind in names else b for kind, a, b in zip(self.kinds, trained, random, strict=True))

    @functools.cached_property
    def kinds(self) -> list[str]:
        """Of the gates, in call order."""
        params = self.task.model.init(jax.random.key(0), self.task.x[:1])
        return [gate.kind for gate in npk.explain(self.apply)(params, self.task.x[:2]).gates]


def measure(name: str, seeds: Sequence[int], small: bool = False) -> dict[str, Any]:
    """All rows of a task: label → accuracies of every seed, on training and test samples."""
    task = TASKS[name](small)
    trials, rows = Trials(task, seeds), {}
    harness.say(f"{task.title}: the network")
    stages = trials.own(trials.drawn("ReLU"), marks=task.marks)
    for epoch, (_, accuracy) in zip(task.marks, stages, strict=True):
        rows[f"network after {epoch}"] = accuracy
    harness.say(f"{task.title}: gates, trained along")
    (learned,) = trials.learned(trials.drawn("DL"))
    rows["DL"] = learned[1]
    random, values = trials.gates(trials.drawn("FR-II")["feature"]), trials.drawn("FL")["value"]

    def under(label: str, gates: Any) -> None:
        harness.say(f"{task.title}: {label}")
        ((_, rows[label]),) = trials.given(values, gates)

    under("FR", random)
    own = ()
    for epoch, (params, _) in zip(task.marks, stages, strict=True):
        own = trials.gates(params)
        under(f"FL-{epoch}", own)
    for kind in KINDS:
        under(f"{kind} learned", trials.mixed([kind], own, random))
        under(f"all but {kind} learned", trials.mixed([k for k in KINDS if k != kind], own, random))
    kept = {label: {"train": found[:, 0].tolist(), "test": found[:, 1].tolist()} for label, found in rows.items()}
    labels = np.bincount(task.y[task.train :])
    return {
        "task": name,
        "title": task.title,
        "network": str(type(task.model).__name__),
        "parameters": sum(a.size for a in jax.tree.leaves(stages[0][0])) // len(seeds),
        "gates": {
            kind: sum(int(g[0, 0].size) for g, k in zip(own, trials.kinds, strict=True) if k in names)
            for kind, names in KINDS.items()
        },
        "train": task.train,
        "test": task.test,
        "epochs": task.epochs,
        "marks": list(task.marks),
        "most frequent class": float(labels.max() / labels.sum()),
        "rows": kept,
        "attention": _attention(trials, own),
    }


def _attention(trials: Trials, gates: Sequence[Any]) -> list[Any]:
    """The trained patterns of the first seed, a mean over test samples: of the digits all tokens; of the characters
    what the last one attends to, a row for each character that it can be. Layer, head, row, token."""
    test = slice(trials.task.train, None)
    found = []
    for kind, gate in zip(trials.kinds, gates, strict=True):
        if kind != "pattern":
            continue
        a = np.asarray(gate[0][test], np.float64)
        a = a.reshape(len(a), -1, *a.shape[-2:])  # sample, head, token, token
        if trials.task.x.ndim == 2:
            last = trials.task.x[test][:, -1]
            mean = np.stack([a[last == c, :, -1].mean(0) for c in np.unique(last)], 1)
        else:
            mean = a.mean(0)
        found.append(np.round(mean, 4).tolist())
    return found


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean and half a 95 % interval for it, by Student's distribution."""
    count = len(values)
    if count < 2:
        return float(np.mean(values)), float("nan")
    error = scipy.stats.t.ppf(0.975, count - 1) * np.std(values, ddof=1) / count**0.5
    return float(np.mean(values)), float(error)


def shown(values: Sequence[float]) -> str:
    """A mean with its interval, in per cent."""
    mean, error = interval(values)
    return f"{100 * mean:.1f} ± {100 * error:.1f}"


def main() -> None:
    """Run all tasks, or some beside the results that there are of the others."""
    parser = harness.parser(__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tasks", nargs="+", choices=tuple(TASKS), default=tuple(TASKS), help="these alone")
    args = parser.parse_args()
    harness.begin(__doc__)
    path, results = harness.RESULTS / "patterns.json", {}
    for name in harness.each(args.tasks):
        begun = time.process_time()
        results[name] = measure(name, range(args.seeds)) | {"CPU seconds": time.process_time() - begun}
        results[name]["machine"] = harness.machine()
    kept = json.loads(path.read_text(encoding="utf-8"))["results"] if path.exists() else {}
    results = {name: found for name in TASKS if (found := results.get(name, kept.get(name)))}
    columns = ["gates", *(result["title"] for result in results.values())]
    rows = [[LABELS[label], *cells] for label, cells in lines(results)]
    title = "Values trained under gates from elsewhere: test accuracy, %"
    harness.report("patterns", title, columns, rows, {"results": results})


LABELS = {
    "FR": "FR: of a random network",
    "scales": "scales learned, the others random",
    "activations": "activations learned, the others random",
    "patterns": "patterns learned, the others random",
    "all but scales": "all but the scales learned",
    "all but activations": "all but the activations learned",
    "all but patterns": "all but the patterns learned",
    "FL": "FL: all of the trained network",
    "DL": "DL: trained along",
    "network": "the network itself",
}


def values_of(result: Mapping[str, Any], label: str, part: str = "test") -> list[float]:
    """Accuracies of all seeds of a row of `LABELS`: of FL and the network those of the end."""
    end = result["marks"][-1]
    keys = {"FL": f"FL-{end}", "network": f"network after {end}", "DL": "DL", "FR": "FR"}
    return result["rows"][keys.get(label, f"{label} learned")][part]


def lines(results: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Label → a cell of each task."""
    return [(label, [shown(values_of(result, label)) for result in results.values()]) for label in LABELS]


if __name__ == "__main__":
    main()
