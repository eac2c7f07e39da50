# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The split during training
#
# A gradient step changes a network in two ways: through the weights on its open paths, and by moving its gates. The
# tangent kernel says how much of each there is, $K = K^V + K^F + K^\text{CROSS}$; the path kernel $H$ says what the
# gates alone know. Here a small network learns in a plain Optax loop, and `npk.track` looks at both on the way: which
# of them change, and which do not?
#
# The loop is run with several seeds: what one run shows may be chance.

# %%
import flax.linen as nn
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

import npk
from npk import data, plots, solving

plt.rcParams.update({"figure.dpi": 110})

digits = data.load("digits:0-4,5-9")  # two classes: 0 to 4, and 5 to 9
x, y = digits.x_train, digits.y_train
chosen = data.balanced(digits.y_test, 200, seed=0)
probe, labels = digits.x_test[chosen], digits.y_test[chosen]


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = x.reshape(x.shape[0], -1)
        for _ in range(3):
            x = nn.relu(nn.Dense(64, use_bias=False)(x))
        return nn.Dense(2, use_bias=False)(x)


f = MLP().apply
optimizer = optax.adam(2e-3)


@jax.jit
def update(params, state, images, classes):
    def loss(p):
        return optax.softmax_cross_entropy_with_integer_labels(f(p, images), classes).mean()

    gradient = jax.grad(loss)(params)
    change, state = optimizer.update(gradient, state)
    return optax.apply_updates(params, change), state


# %% [markdown]
# ## The loop, and three lines in it
#
# A call of the recorder records or skips, and returns the record or None. The steps that it records are spread evenly
# over the logarithm of time, so that the first ones are seen apart. The probe is of test images: 200, the same at every
# record.

# %%
STEPS, RUNS = 1500, 8
WHEN = {0, *np.geomspace(1, STEPS, 18).astype(int).tolist()}


def run(seed):
    params = MLP().init(jax.random.key(seed), x[:1])
    state, rng = optimizer.init(params), np.random.default_rng(seed)
    recorder = npk.track(f, probe, labels, every=WHEN)  # added
    first, accuracies = params, []
    for step in range(STEPS):
        if recorder(step, params):  # added
            accuracies.append(solving.accuracy(f(params, x), y))
        batch = rng.integers(0, len(x), 64)
        params, state = update(params, state, x[batch], y[batch])
    recorder.record(STEPS, params)  # added: the end, whatever `every` says
    accuracies.append(solving.accuracy(f(params, x), y))
    return recorder, {"first": first, "last": params}, np.array(accuracies)


runs = [run(seed) for seed in range(RUNS)]
recorder, ends, _ = runs[0]
print(recorder)
print("training accuracy:", ", ".join(f"{accuracies[-1]:.1%}" for _, _, accuracies in runs))

# %% [markdown]
# All records are a table: `to_pandas` makes it a data frame, and `to_csv`, `to_parquet` and `to_tensorboard` write it.
# Some of its columns, of the first run:

# %%
table = recorder.table()
columns = ["step", "flips", "alignment", "trace/npk", "trace/value", "trace/feature", "trace/cross"]
print(*(f"{name:>13s}" for name in columns))
for row in zip(*(table[name] for name in columns), strict=True):
    print(*(f"{number:13.6g}" for number in row))

# %% [markdown]
# ## Gates move, and what they know
#
# Flips are counted since the first record. Error bars are 95 % intervals of the mean of all runs. (`jackknife`, which
# leaves out one run at a time, gives Student's interval.)


# %%
def over_runs(values):
    """Means of [runs, …] with intervals."""
    values = np.asarray(values, float)
    found = solving.jackknife(lambda kept: values[kept].mean(0).ravel(), len(values))
    return np.array([e.value for e in found]), np.array([(e.low, e.high) for e in found])


tables = [recorder.table() for recorder, _, _ in runs]
steps = np.array(tables[0]["step"])
series = {
    "training accuracy": [accuracies for _, _, accuracies in runs],
    "alignment of H": [table["alignment"] for table in tables],
    "gates flipped": [table["flips"] for table in tables],
    "flipped since the record before": [table["flips_since_last"] for table in tables],
}
means = {name: over_runs(values) for name, values in series.items()}


def drawn(means, ylabel):
    middle, bars = ({name: pair[i] for name, pair in means.items()} for i in (0, 1))
    figure = plots.curves(middle, steps, intervals=bars, xlabel="gradient steps", ylabel=ylabel)
    figure.axes[0].set_xscale("symlog", linthresh=1)
    return figure


drawn(means, "fraction")


# %% [markdown]
# How early is early? The step of the first record at which half of the rise is there, run by run:


# %%
def halfway(values):
    values = np.asarray(values)
    return int(steps[np.argmax(values - values[0] >= (values[-1] - values[0]) / 2)])


for name in ("training accuracy", "gates flipped", "alignment of H"):
    print(f"{name:18s} {sorted(halfway(values) for values in series[name])}")

# %% [markdown]
# ## Shares of the tangent kernel
#
# Hard gates have no gradient, so the tangent kernel is that of the same parameters under soft gates, `npk.softened(f)`
# (`beta=4`). Of its trace each part has a share; that of $K^\text{CROSS}$ may be negative.

# %%
PARTS = {"K^V": "value", "K^F": "feature", "K^CROSS": "cross"}
traces = np.array([[table[f"trace/{part}"] for part in PARTS.values()] for table in tables])  # [runs, parts, records]
shares = traces / traces.sum(1, keepdims=True)
drawn({name: over_runs(shares[:, i]) for i, name in enumerate(PARTS)}, "share of the trace of K")

# %% [markdown]
# ## What changed, and what did not
#
# The difference between the last record and the first of every run, and whether the interval of its mean leaves out
# zero. Where it does not, these runs show no change; a smaller one may be there.


# %%
def told(low, high):
    return "rises" if low > 0 else "falls" if high < 0 else "no change that these runs show"


def compared(values, before, after):
    """Two records: the means over the runs, and the mean change."""
    (value,), ((low, high),) = over_runs(values[:, after] - values[:, before])
    ends = f"{values[:, before].mean():6.3f} {values[:, after].mean():6.3f}"
    return f"{ends} {value:+7.3f} [{low:+.3f}, {high:+.3f}] {told(low, high)}"


def column(name):
    return np.array([table[name] for table in tables])


measured = {
    **{f"share of {name}": shares[:, i] for i, name in enumerate(PARTS)},
    "log10 of the trace of K": np.log10(traces.sum(1)),
    "log10 of the trace of H": np.log10(column("trace/npk")),
    "alignment of H": column("alignment"),
    "effective rank of H": column("effective_rank"),
    "code distance within classes": column("distance_within"),
    "code distance between them": column("distance_between"),
    **{f"dead units, {name}": column(f"dead/{name}") for name in recorder.layers},
    **{f"overlap, {name}": column(f"overlap/{name}") for name in recorder.layers},
}
print(f"{'':30s}  first   last  change and its interval")
for name, values in measured.items():
    print(f"{name:30s} {compared(values, 0, -1)}")

# %% [markdown]
# A trace is a size and a share is a proportion: read the two beside each other. A part of $K$ can grow by orders of
# magnitude, as the weights do, while its share of $K$ hardly moves.
#
# And what ends as it began may have been elsewhere on the way. The same for the shares, up to the middle of the axis
# above (the record nearest to the root of all steps, whatever the numbers are) and from there on:

# %%
middle = int(np.abs(np.log(np.maximum(steps, 1)) - np.log(STEPS) / 2).argmin())
for title, ends_of_it in {f"up to step {steps[middle]}": (0, middle), "from there on": (middle, -1)}.items():
    for name in PARTS:
        print(f"{title:16s} share of {name:8s} {compared(measured[f'share of {name}'], *ends_of_it)}")

# %% [markdown]
# ## Of how many images is that?
#
# The intervals above are of runs, on one probe. Another interval is of images: one run, and how much its numbers depend
# on which images the probe holds. The recorder gives no interval; its numbers are those of two functions, which
# `jackknife` asks again as one twentieth of the images after another is left out.


# %%
def of_images(params):
    kernel = np.asarray(npk.path_kernel(f)(params, probe))
    parts = npk.split_ntk_diagonal(npk.softened(f))(params, probe)
    return kernel, np.stack([np.asarray(getattr(parts, part)) for part in PARTS.values()])


def numbers(kernel, diagonals, kept):
    traces = diagonals[:, kept].sum(1)
    return np.array([solving.alignment(kernel[np.ix_(kept, kept)], labels[kept]).value, *(traces / traces.sum())])


before, after = (of_images(params) for params in ends.values())
changes = solving.jackknife(lambda kept: numbers(*after, kept) - numbers(*before, kept), len(labels))
for name, change in zip(["alignment of H", *(f"share of {name}" for name in PARTS)], changes, strict=True):
    (_,), ((low, high),) = over_runs(measured[name][:, -1] - measured[name][:, 0])
    images = f"{change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}] by images"
    print(f"{name:16s} first run {images}, mean of {RUNS} runs [{low:+.3f}, {high:+.3f}]")

# %% [markdown]
# The two intervals answer two questions: of images, what this one network does on other images; of runs, what other
# networks do on these images. However narrow the first is, it says nothing of another seed. `npk analyse` and its page
# give intervals of images.
