"""`docs/patterns.md` and its figures from the JSON of the last run: `python -m benchmarks.tables` writes them anew."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.harness import RESULTS
from benchmarks.patterns import LABELS, interval, lines, shown, values_of
from npk import plots
from npk.plots import COLORS, INK, in_percent, panels

PAGE = RESULTS.parents[1] / "docs" / "patterns.md"
GROUPS = {  # colour → rows
    COLORS[6]: ("FR",),
    COLORS[0]: ("scales", "activations", "patterns", "all but scales", "all but activations", "all but patterns"),
    COLORS[2]: ("FL",),
    COLORS[3]: ("DL",),
    COLORS[4]: ("network",),
}


def load() -> dict[str, Any]:
    """The results of all tasks."""
    return json.loads((RESULTS / "patterns.json").read_text(encoding="utf-8"))["results"]


def over_training(results: Mapping[str, Any]) -> Figure:
    """Accuracy of values under the gates of each epoch, beside the network's own then."""
    with panels(3.6 * len(results), 3.6, 1, len(results), sharey=True) as (figure, (axes,)):
        for axis, result in zip(axes, results.values(), strict=True):
            marks = result["marks"]
            for template, name, color in (
                ("network after {}", "the network at that epoch", COLORS[4]),
                ("FL-{}", "values trained anew under its gates (FL)", COLORS[0]),
            ):
                found = [interval(result["rows"][template.format(mark)]["test"]) for mark in marks]
                means, errors = np.array(found).T
                axis.errorbar(range(len(marks)), means, errors, marker="o", capsize=2.5, color=color, label=name)
            random = interval(values_of(result, "FR"))[0]
            axis.axhline(random, color=COLORS[6], linestyle="--", linewidth=1.4, label="values under random gates (FR)")
            axis.axhline(
                result["most frequent class"], color=INK, linestyle=":", linewidth=1.2, label="most frequent class"
            )
            axis.set_xticks(range(len(marks)), map(str, marks))
            axis.set(title=result["title"], xlabel="epoch that the gates are of", ylim=(0, 1.04))
            in_percent(axis.yaxis)
        axes[0].set_ylabel("test accuracy")
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=2, fontsize=8.5)
    return figure


def by_kind(results: Mapping[str, Any]) -> Figure:
    """Accuracy of values by which gates are of the trained network."""
    color_of = {label: color for color, labels in GROUPS.items() for label in labels}
    with panels(4.4 + 2.6 * len(results), 3.8, 1, len(results), sharey=True) as (figure, (axes,)):
        for axis, result in zip(axes, results.values(), strict=True):
            found = [interval(values_of(result, label)) for label in LABELS]
            means, errors = np.array(found).T
            colors = [color_of[label] for label in LABELS]
            axis.barh(
                range(len(LABELS)), means, 0.7, xerr=errors, color=colors, error_kw={"capsize": 2.5, "ecolor": INK}
            )
            axis.axvline(result["most frequent class"], color=INK, linestyle=":", linewidth=1.2)
            axis.set(title=result["title"], xlabel="test accuracy", xlim=(0, 1.06), ylim=(len(LABELS) - 0.4, -0.6))
            axis.grid(False, axis="y")
            in_percent(axis.xaxis)
        axes[0].set_yticks(range(len(LABELS)), LABELS.values())
    return figure


def attended(result: Mapping[str, Any]) -> Figure:
    """What the last token of the look-up attends to, by the place that it asks for."""
    layers = [np.array(layer) for layer in result["attention"]]  # head, asked, token
    heads = len(layers[0])
    with panels(2.1 * len(layers) * heads + 0.8, 2.5, 1, len(layers) * heads, sharey=True) as (figure, (axes,)):
        for number, axis in enumerate(axes):
            pattern = layers[number // heads][number % heads]
            image = axis.imshow(pattern, vmin=0, vmax=1, cmap="magma", aspect="auto")
            ticks = [*map(str, range(pattern.shape[1] - 1)), "?"]
            axis.set_xticks(range(pattern.shape[1]), ticks)
            axis.set_yticks(range(len(pattern)))
            axis.grid(False)
            axis.set(title=f"layer {number // heads + 1}, head {number % heads + 1}", xlabel="place attended to")
        axes[0].set_ylabel("place asked for")
        figure.colorbar(image, ax=axes, label="share of attention")
    return figure


def figures() -> dict[str, Figure]:
    """File name → figure."""
    results = load()
    return {
        "patterns-training": over_training(results),
        "patterns-kinds": by_kind(results),
        "patterns-attended": attended(results["look-up"]),
    }


def write() -> None:
    """The page and its pictures."""
    for name, figure in figures().items():
        for path in plots.save(figure, PAGE.parent / name):
            if path.suffix != ".png":
                path.unlink()
    PAGE.write_text(page(), encoding="utf-8")


def _table(results: Mapping[str, Any]) -> str:
    columns = ["gates", *(result["title"] for result in results.values())]
    rows = [[LABELS[label], *cells] for label, cells in lines(results)]
    frequent = [f"{100 * result['most frequent class']:.1f}" for result in results.values()]
    cells = [columns, ["---", *["---:"] * len(results)], *rows, ["the most frequent class alone", *frequent]]
    return "\n".join(" | ".join(["", *row, ""]).strip() for row in cells)


def _sizes(results: Mapping[str, Any]) -> str:
    return "\n".join(
        f"- **{r['title']}**: {r['network']} of two layers of two heads, width 16, {r['parameters']:,} parameters; "
        f"{r['train']:,} training and {r['test']:,} test samples, {r['epochs']} epochs; of the gates of a sample "
        + ", ".join(f"{count:,} are {kind}" for kind, count in r["gates"].items())
        + "."
        for r in results.values()
    )


def _where(results: Mapping[str, Any]) -> str:
    machines = [result["machine"] for result in results.values()]
    seconds = sum(result["CPU seconds"] for result in results.values())
    machine = machines[-1]
    command = "`, `".join(dict.fromkeys(m["command"] for m in machines))
    return (
        f"{machine['cpu']}, {machine['cores']} cores, JAX {machine['versions']['jax']}, {machine['date']}; "
        f"`{command}`; {seconds / 60:.0f} minutes of processor time in all"
    )


def page() -> str:
    """The page, its numbers from the results."""
    results = load()
    seeds = sorted({len(values_of(result, "FR")) for result in results.values()})
    return TEXT.format(
        table=_table(results),
        sizes=_sizes(results),
        where=_where(results),
        seeds=" or ".join(map(str, seeds)),
        findings=findings(results),
    )


def findings(results: Mapping[str, Any]) -> str:
    """What the numbers allow to say: "task/row" is that cell, "task/row-row" the mean difference of a seed's two."""
    return FINDINGS.format_map(_Cells(results))


class _Cells(dict[str, str]):
    def __init__(self, results: Mapping[str, Any]):
        super().__init__()
        self.results = results

    def __missing__(self, key: str) -> str:
        task, label = key.split("/")
        sides = [np.array(self._values(task, name)) for name in label.split("-")]
        if len(sides) == 1:
            return f"{shown(sides[0].tolist())} %"
        return f"{shown((sides[0] - sides[1]).tolist())} points"

    def _values(self, task: str, label: str) -> list[float]:
        kind, _, epoch = label.partition("@")
        if epoch:
            return self.results[task]["rows"][f"{kind}-{epoch}"]["test"]
        return values_of(self.results[task], label)


TEXT = """# What do attention patterns know?

Made by `python -m benchmarks.tables` from `benchmarks/results/patterns.json`.

A gate is any factor of the values that depends on the input. In a transformer there are three kinds: the patterns of
attention, the scales 1/σ of the norms, and the activations. Given all of them the network is linear, in its input and
along every path in its weights. So the question of the papers, whether learning lies in the gates or in the weights,
can be asked of attention, and of each kind of gates alone:

- **FR**: the gates of a random network, fixed; values of another draw are trained under them.
- **FL**: the same under the gates that the trained network had after so many epochs.
- **patterns learned** (activations, scales): that kind of gates from the trained network, all others from the random
  one of FR. **all but** the patterns: the reverse.
- **DL**: gates of a second set of parameters, trained along with the values (activations with soft gates, β = 4).
- **the network itself**, in which values and gates share their parameters.

The values are always a draw of their own, and of the sample they see what the network sees: only the gates come from
elsewhere. Their queries and keys take no part.

{sizes}

**Test accuracy, %** (mean of {seeds} seeds and its 95 % interval by Student's distribution; {where})

{table}

![bars of test accuracy by which gates are of the trained network, a panel a task](patterns-kinds.png)

*Test accuracy by where the gates are from; lines: 95 % intervals for the mean; dotted: the most frequent class.*

![test accuracy against the epoch that the gates are of, a panel a task](patterns-training.png)

*The network after each epoch, and values trained anew, to the end, under the gates of that epoch.*

![patterns of the decoder: the place attended to against the place asked for](patterns-attended.png)

*What the last token of the look-up attends to after training: mean over the test sequences that ask for a place, first
seed.*

## What the numbers say, and what they do not

{findings}

## The same on your own network

```
npk study --network vit-rows
```

trains a vision transformer on the digits, a token a row, and gives its stages, kernels and regimes as for any network
(`vit`, `vit-rows`, `mixer`, `convnext`). It says how many units' gates flipped and how far patterns and scales moved,
and leaves out DLGN and DLGN-SF: no linear network makes the gates of norms and attention. Kernels of pooled tokens cost
the square of the samples times that of the tokens. In a program:

```python
import jax, npk
from npk import data, networks

x = data.load("digits").x_train[:8]
model = networks.ViT(patch=(1, None), width=8, depth=1, heads=1, hidden=8)
trained, values = (model.init(key, x) for key in jax.random.split(jax.random.key(0)))
gates = npk.gates(model.apply)(trained, x)
logits = npk.gated(model.apply)(values, x, gates)
```
"""

FINDINGS = """- **Looking up.** Values trained under random gates reach {look-up/FR}, under the gates of the trained
  network {look-up/FL}, although they begin anew: what was learned can be had from the gates. The last picture shows
  how: both heads of the first layer go to the place that is asked for, the second layer's stay near a plain mean.
- **No kind of gates is the only one to know.** The patterns alone are enough ({look-up/patterns}, all others random),
  but so are the activations alone, under patterns of a random network ({look-up/activations}), and the 29 scales of a
  sample, which are single numbers a token, lift it from {look-up/FR} to {look-up/scales}. Activations and scales were
  computed behind the trained network's own patterns and carry on what those picked. The table says where the answer
  can be read, not where it was found first.
- **Gates do not only get better.** After one epoch of it they are worse for fresh values than before the first:
  {look-up/FL@1} against {look-up/FL@0}.
- **Digits.** Here random gates do most of it: {digits/FR}. Learned patterns alone add {digits/patterns-FR} (mean of the
  differences within a seed), all gates of the trained network {digits/FL-FR}, learned activations alone
  {digits/activations-FR}; an interval that holds 0 shows no gain. The network itself stays ahead of fresh values under
  its gates by {digits/network-FL}: gates are not all of it, or values that begin anew find less.
- **Whether a letter stood before.** Values under random gates reach {seen/FR}, where the network itself is at
  chance for its first epochs; with learned patterns {seen/patterns}. Gates of the middle of training are worse for
  fresh values than those it began with ({seen/FL@8} after 8 epochs, {seen/FL@0} before the first), as in the look-up.
  DL, at this learning rate and number of epochs, had not finished with every seed: {seen/DL}.
- **What they do not say.** Networks of some 7,000 parameters, three tasks, one width and depth, many comparisons. Gates
  of two networks together are the gates of none. The intervals are over seeds (parameters and order of samples), not
  over the few hundred test samples, of which one weighs 0.3 points on the digits and 0.1 on the others. Where several
  rows are at 100 % the task is too easy to tell them apart. The learning
  rate was chosen for the network itself and serves all rows. A decoder's weights begin so small that its random
  patterns are nearly uniform; "random" means that, not the worst patterns there are."""
