# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What gates learn
#
# A network has learned to tell the digits 0 to 4 from 5 to 9. What do its gates know by then that those of a random
# network do not? The path kernel $H$ is made of gates and pixels alone, no weight is in it: so it can be asked.
#
# Every number below is of some images and of one network, and has its interval over images. Two networks are compared
# on the same images, since the interval of a difference is then narrower. The last section trains other seeds.

# %%
import flax.linen as nn
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

import npk
from npk import data, plots, solving
from npk.studies import analyse
from npk.training import train

plt.rcParams.update({"figure.dpi": 110, "font.size": 9})

groups, digits = data.load("digits:0-4,5-9"), data.load("digits")  # the same images: two classes, and ten
x, x_test = digits.x_train, digits.x_test


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = x.reshape(x.shape[0], -1)
        for _ in range(3):
            x = nn.relu(nn.Dense(128, use_bias=False)(x))
        return nn.Dense(2, use_bias=False)(x)


f = MLP().apply


def networks(seed):
    """The parameters before training, and after."""
    first, shuffling = MLP().init(jax.random.key(seed), x[:1]), jax.random.key(100 + seed)
    trained = train(f, first, x, groups.y_train, key=shuffling, epochs=30, stages=2, optimizer=optax.adam(1e-3))
    return {"random": first, "trained": trained.stages[-1]}


params = networks(0)
reached = solving.proportion(solving.hits(f(params["trained"], x_test), groups.y_test))
print(f"the trained network: {reached.value:.1%} [{reached.low:.1%}, {reached.high:.1%}] of {len(x_test)} test images")

# %% [markdown]
# ## What `analyse` finds
#
# Two checkpoints, in a line; as the last expression of a cell `found` would be shown as a page, here are some of its
# numbers. "Since" is the difference from the first checkpoint.

# %%
found = analyse(f, list(params.items()), x, groups.y_train, x_test=x_test, y_test=groups.y_test)


def told(estimate):
    """Above zero, below it, or neither, as the interval says."""
    return "more" if estimate.low > 0 else "less" if estimate.high < 0 else "no difference that these images show"


def shown(value, low, high):
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"


last = found.content["stages"][-1]
print("gates flipped            ", shown(last["gate_flips"]["all"], *last["intervals"]["gate_flips"]))
for kernel, name in {"npk": "H", "value": "K^V", "feature": "K^F", "cross": "K^CROSS"}.items():
    now = shown(last["alignment"][kernel], *last["intervals"]["alignment"][kernel])
    print(f"alignment of {name:12s}", now, "  since:", shown(*last["since"]["alignment"][kernel]))
right = shown(last["ridge"]["test_accuracy"], *last["intervals"]["ridge"])
print("ridge with H             ", right, "  since:", shown(*last["since"]["ridge"]))

# %% [markdown]
# Alignment is of the labels that the network was trained on, with training images. The ridge regression saw 240 labels.
# A regression with very few labels asks more of its kernel.
#
# ## Few labels
#
# Ridge regression with $H$ under the gates of each network, and with the pixels alone, on some labelled images, as many
# of each digit; it is scored on all test images. The *gates* of the trained network have seen all training labels: what
# is asked is how few labels suffice to read off what they know.


# %%
def kernels(params):
    own = {name: npk.path_kernel(f)(p, x) for name, p in params.items()}
    across = {name: npk.path_kernel(f)(p, x_test, x) for name, p in params.items()}
    return {name: (np.asarray(own[name]), np.asarray(across[name])) for name in params}


def right_with(kernel, task, labels, seed=0):
    """Which test images a regression on a few labelled ones classifies correctly."""
    few = data.balanced(digits.y_train, labels, seed)
    own, across = kernel[0][np.ix_(few, few)], kernel[1][:, few]
    return solving.classify(own, across, task.y_train[few], task.y_test).correct


flat, flat_test = x.reshape(len(x), -1), x_test.reshape(len(x_test), -1)
asked = {**kernels(params), "pixels": (np.asarray(npk.gram(flat)), np.asarray(npk.gram(flat_test, flat)))}
LABELS = (20, 40, 80, 160, 320)
correct = {
    name: {task.name: [right_with(kernel, task, n) for n in LABELS] for task in (groups, digits)}
    for name, kernel in asked.items()
}


def learning(task):
    scores = {name: [solving.proportion(right) for right in correct[name][task]] for name in asked}
    return plots.curves(
        {name: [score.value for score in of] for name, of in scores.items()},
        np.log2(LABELS),
        intervals={name: [(score.low, score.high) for score in of] for name, of in scores.items()},
        xticks=[str(n) for n in LABELS],
        xlabel="labelled images (logarithmic)",
        ylabel="test accuracy",
        percent=True,
    )


learning(groups.name)

# %% [markdown]
# Two curves of the same test images may differ beyond chance even where their bars overlap: what counts is the
# difference, image by image.


# %%
def differences(task):
    for n, after, before in zip(LABELS, correct["trained"][task], correct["random"][task], strict=True):
        change = solving.paired_difference(after, before)
        print(f"{n:4d} labels: {shown(change.value, change.low, change.high)} {told(change)}")


differences(groups.name)

# %% [markdown]
# One draw of labelled images a row. Other draws, at the two ends:

# %%
for n in (LABELS[0], LABELS[-1]):
    draws = [
        right_with(asked["trained"], groups, n, seed).mean() - right_with(asked["random"], groups, n, seed).mean()
        for seed in range(12)
    ]
    better = sum(draw > 0 for draw in draws)
    print(f"{n:4d} labels: trained gates better in {better} of {len(draws)} draws, by {np.median(draws):+.3f} (median)")

# %% [markdown]
# ## What nobody asked them
#
# The same gates, and which of ten digits it is. Of that the network was told the group alone.

# %%
learning(digits.name)

# %%
differences(digits.name)

# %% [markdown]
# Gates that forgot the digits of a group would show as "less". Were there no difference at all, one of five such rows
# would still show one in more than a fifth of all cases: a single verdict is not much.
#
# ## Units that never open
#
# A unit that is closed for every image is dead, as far as these images show, and one that is always open is linear.

# %%
for name, p in params.items():
    for images, what in ((x_test, "test"), (x, "training")):
        states = solving.unit_states([np.asarray(g) for g in npk.gates(f)(p, images)])
        dead = ", ".join(f"{state.dead:5.1%}" for state in states)
        always = ", ".join(f"{state.always_open:5.1%}" for state in states)
        print(f"{name:8s} {len(images):5d} {what:9s} images: dead {dead}; always open {always} (by layer)")

# %% [markdown]
# ## Which digits come apart
#
# The code of an image is the list of its gates; two images differ by the share of gates in which they do. For every two
# digits: how much their mean distance changed by training.

# %%
chosen = data.balanced(digits.y_test, 300, seed=0)
labels = digits.y_test[chosen]


def distances(params):
    """Hamming distances of all codes, as shares of the units."""
    gates = [np.asarray(g).reshape(len(chosen), -1) for g in npk.gates(f)(params, x_test[chosen])]
    codes = np.concatenate(gates, axis=1).astype(np.float32)
    opened = codes.sum(1)
    return (opened[:, None] + opened - 2 * codes @ codes.T) / codes.shape[1]


def by_digits(matrix, kept):
    """Means over the pairs of two digits, an image with itself left out; [10, 10]."""
    members = np.eye(10)[labels[kept]]
    sizes = members.sum(0)
    return members.T @ matrix[np.ix_(kept, kept)] @ members / (np.outer(sizes, sizes) - np.diag(sizes))


moved = distances(params["trained"]) - distances(params["random"])
change = by_digits(moved, np.arange(len(chosen)))
bound = np.abs(change).max()
figure, ax = plt.subplots(figsize=(4.4, 3.6), layout="constrained")
image = ax.imshow(change, cmap="RdBu_r", vmin=-bound, vmax=bound)
ax.set(xticks=range(10), yticks=range(10), xlabel="digit", ylabel="digit")
ax.axhline(4.5, color="black", lw=0.8)
ax.axvline(4.5, color="black", lw=0.8)
figure.colorbar(image, ax=ax, label="change of the mean distance")
plt.show()

# %% [markdown]
# Red pairs came apart, blue ones came together; the lines part the groups. A jackknife of the images gives each pair an
# interval. Of 55 pairs some three would leave out zero by chance, were there no change at all.

# %%
pairs = [(a, b) for a in range(10) for b in range(a, 10)]
intervals = solving.jackknife(lambda kept: [by_digits(moved, kept)[pair] for pair in pairs], len(chosen))


def kind(a, b):
    return "one digit" if a == b else "two digits of a group" if (a < 5) == (b < 5) else "digits of two groups"


KINDS = ("one digit", "two digits of a group", "digits of two groups")
for name in KINDS:
    of = [interval for pair, interval in zip(pairs, intervals, strict=True) if kind(*pair) == name]
    apart, together = sum(i.low > 0 for i in of), sum(i.high < 0 for i in of)
    print(f"{name:22s} {len(of)} pairs: {apart} came apart, {together} together, {len(of) - apart - together} neither")


# %%
def by_kind(kept):
    table = by_digits(moved, kept)
    return [np.mean([table[pair] for pair in pairs if kind(*pair) == name]) for name in KINDS]


means = dict(zip(KINDS, solving.jackknife(by_kind, len(chosen)), strict=True))
plots.dots(
    {name: mean.value for name, mean in means.items()},
    {name: (mean.low, mean.high) for name, mean in means.items()},
    {"images of": KINDS},
    xlabel="change of the mean distance, as a share of all gates",
    reference=("no change", 0.0),
)

# %% [markdown]
# ## Other seeds
#
# All of that was one network. Two of the numbers, the gain with the fewest labels and the change of the distances, for
# some others:

# %%
for seed in range(1, 4):
    other = networks(seed)
    pair = kernels(other)
    few = solving.paired_difference(*(right_with(pair[n], groups, LABELS[0]) for n in ("trained", "random")))
    moved = distances(other["trained"]) - distances(other["random"])
    _, inside, across = by_kind(np.arange(len(chosen)))
    gained = f"{shown(few.value, few.low, few.high)} {told(few)}"
    print(f"seed {seed}: {LABELS[0]} labels {gained}; distance {inside:+.3f} within a group, {across:+.3f} across")
