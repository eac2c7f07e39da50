# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Finite and infinite width
#
# As a network widens, its kernels stop depending on the draw of its weights. This notebook takes one Flax model as it
# stands, reads its limits off with `npk.infinite`, and looks at how finite networks get there, where they never do, how
# well each kernel classifies, and whether it predicts a real network's training.
#
# The same comparison, with more draws, a report and its own data sets, is `npk compare`.

# %%
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import npk
import npk.infinite
from npk import data, solving
from npk.infinite import ntk_parameterised, variances
from npk.training import redraw

plt.rcParams.update({"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False})


class MLP(nn.Module):
    width: int
    outputs: int = 1

    @nn.compact
    def __call__(self, x):
        x = x.reshape(x.shape[0], -1)
        for _ in range(3):
            x = nn.relu(nn.Dense(self.width, use_bias=False)(x))
        return nn.Dense(self.outputs, use_bias=False)(x)


digits = data.load("digits")
chosen = data.balanced(digits.y_train, 40, seed=0)  # ordered by class
x = jnp.asarray(digits.x_train[chosen])


def he(model, key):
    """Weights of variance 2/fan-in."""
    return redraw(jax.eval_shape(model.init, key, x[:1]), key, "he")


# %% [markdown]
# ## Three limits of one model
#
# Of the parameters only shapes count. `nngp` is the covariance of the outputs of random networks, `ntk` their tangent
# kernel, and `path_kernel` the neural path kernel when a random network of the same architecture opens the gates:
# the share of all paths that are open for both images, times how alike the images are.

# %%
model = MLP(width=8)  # the limits do not depend on the width
params = he(model, jax.random.key(0))
limits = {
    "NNGP": npk.infinite.nngp(model.apply)(params, x),
    "NTK": npk.infinite.ntk(model.apply)(params, x),
    "H (FR-II)": npk.infinite.path_kernel(model.apply)(params, x),
    "H (DLGN)": npk.infinite.path_kernel(model.apply, regime="DLGN")(params, x),
}


def cosines(kernel):
    size = np.sqrt(np.diagonal(kernel))
    return np.asarray(kernel) / np.outer(size, size)


figure, axes = plt.subplots(1, 4, figsize=(12, 3.2), layout="constrained")
for ax, (name, kernel) in zip(axes, limits.items(), strict=True):
    image = ax.imshow(cosines(kernel), vmin=0, vmax=1, cmap="viridis")
    ax.set(title=name, xlabel="image, ordered by class", xticks=[], yticks=[])
figure.colorbar(image, ax=axes, label="K(s, s') / √(K(s, s) K(s', s'))")
plt.show()

# %% [markdown]
# ## How fast, and where not at all
#
# Draw networks of several widths and measure how far their kernels are from the limits (relative Frobenius distance).
# Kernels at infinite width are those of weights ω of unit variance, θ = σ/√fan-in · ω; `ntk_parameterised` scales an
# empirical kernel accordingly, and `d·2^d` takes `path_kernel` to the scale of K^V under He's weights.
#
# Hold the gates of an independent network fixed (FR-II), and the mean of K^V over value weights is
# d σ^{2(d-1)} H at every width. Take gates and weights from one network (FR-DI), and it is not, at any width.

# %%
WIDTHS, DRAWS, DEPTH = (32, 64, 128, 256, 512), 6, 4
FACTOR = DEPTH * 2**DEPTH


def kernels(model, key):
    f = model.apply
    value, feature = (he(model, k) for k in jax.random.split(key))
    both = {"feature": feature, "value": value}
    own = ntk_parameterised(npk.split_ntk(f)(value, x), value)
    frozen = ntk_parameterised(npk.split_ntk(npk.DGN(f))(both, x), both)
    paths = npk.path_kernel(f)
    return own.total, frozen.value, FACTOR * paths(feature, x), FACTOR * paths(value, x)


distance = solving.relative_error
errors = {"K to the infinite NTK": [], "K^V of FR-II to its mean": [], "K^V of FR-DI to H of its gates": []}
for width in WIDTHS:
    model = MLP(width)  # one model, so that each kernel is compiled once a width
    for draw in range(DRAWS):
        total, frozen, paths, own_paths = kernels(model, jax.random.fold_in(jax.random.key(width), draw))
        errors["K to the infinite NTK"].append((width, distance(total, limits["NTK"])))
        errors["K^V of FR-II to its mean"].append((width, distance(frozen, paths)))
        # With hard gates K^V of a ReLU network is all of its tangent kernel.
        errors["K^V of FR-DI to H of its gates"].append((width, distance(total, own_paths)))

figure, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
for name, points in errors.items():
    widths, found = np.array(points).T
    fit = solving.power_law(widths, found)
    dots = ax.loglog(widths, found, ".", alpha=0.6)[0]
    label = f"{name}: slope {fit.slope:.2f} [{fit.low:.2f}, {fit.high:.2f}]"
    ax.loglog(WIDTHS, fit.factor * np.array(WIDTHS) ** fit.slope, color=dots.get_color(), label=label)
ax.set(xlabel="width (units, logarithmic)", ylabel="relative Frobenius distance (logarithmic)")
ax.set_xticks(WIDTHS, WIDTHS)
ax.minorticks_off()
ax.legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# The first two fall as one over the square root of the width. The third levels off: that is the distance between the
# NTK of a ReLU network and the path kernel, and no width makes it smaller.
#
# ## How well each kernel classifies
#
# Kernel ridge regression on one split of the digits, the ridge chosen on a part of the training images.

# %%
train = data.balanced(digits.y_train, 600, seed=0)
x_train, y_train = jnp.asarray(digits.x_train[train]), digits.y_train[train]
x_test, y_test = jnp.asarray(digits.x_test), digits.y_test
wide = MLP(512)
drawn = he(wide, jax.random.key(7))
candidates = {
    "pixels alone": lambda a, b=None: npk.gram(a.reshape(len(a), -1), None if b is None else b.reshape(len(b), -1)),
    "H, random gates, width 512": functools.partial(npk.path_kernel(wide.apply), drawn),
    "H, infinite width": functools.partial(npk.infinite.path_kernel(wide.apply), drawn),
    "NTK, infinite width": functools.partial(npk.infinite.ntk(wide.apply), drawn),
    "NNGP, infinite width": functools.partial(npk.infinite.nngp(wide.apply), drawn),
}
for name, kernel in candidates.items():
    found = solving.classify(kernel(x_train), kernel(x_test, x_train), y_train, y_test)
    interval = solving.proportion(found.correct)
    print(f"{name:28s} {interval.value:.1%} [{interval.low:.1%}, {interval.high:.1%}] of {len(y_test)} test images")

# %% [markdown]
# ## Does a kernel predict training?
#
# If the tangent kernel stays as it is at the start, full-batch gradient descent on the squared loss is ė = -K e, and
# `npk.gradient_flow` knows its solution at any time. Beside it, a real network.

# %%
few = data.balanced(digits.y_train, 100, seed=0)
a, labels = jnp.asarray(digits.x_train[few]), digits.y_train[few]
b = x_test[:200]
targets = np.eye(10)[labels] - 0.1

net = MLP(512, outputs=10)
start = he(net, jax.random.key(3))
sizes = variances(start)  # a step on ω is this much of a step on θ


def tangent(*pair):
    return ntk_parameterised(npk.split_ntk(net.apply)(start, *pair), start, outputs=10).total


kernel = tangent(a)
step = 0.3 / np.linalg.eigvalsh(np.asarray(kernel, np.float64))[-1]


@jax.jit
def descend(p):
    gradient = jax.grad(lambda q: 0.5 * jnp.sum(jnp.square(net.apply(q, a) - targets)))(p)
    return jax.tree.map(lambda w, g, v: w - jnp.float32(step * v) * g, p, gradient, sizes)


steps, recorded, outputs, p = 300, [], [], start
for i in range(steps + 1):
    if i < 10 or i % 10 == 0:
        recorded.append(i)
        outputs.append((net.apply(p, a), net.apply(p, b)))
    p = descend(p)
times = step * np.array(recorded)
initial, test_initial = outputs[0]
flow = npk.gradient_flow(
    kernel, targets, test_kernel=tangent(b, a), initial=initial, test_initial=test_initial, rounding=1e-4
)


def loss(f):
    return 0.5 * np.square(np.asarray(f) - targets).sum(-1).mean(-1)


def wrong(f):
    return (np.asarray(f).argmax(-1) != y_test[:200]).mean(-1)


figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
axes[0].plot(times, [loss(f) for f, _ in outputs], "o", ms=3, label="real network, width 512")
axes[0].plot(times, loss(flow.train(times)), label="gradient flow with its K at the start")
axes[0].set(xlabel="time (step size × steps)", ylabel="training loss, ½‖f - y‖² an image", yscale="log")
axes[1].plot(times, [wrong(f) for _, f in outputs], "o", ms=3)
axes[1].plot(times, wrong(flow.test(times)))
axes[1].set(xlabel="time (step size × steps)", ylabel="test error (share of 200 images)", ylim=(0, None))
axes[0].legend(frameon=False, fontsize=8)
plt.show()
gap = max(np.linalg.norm(flow.test(t) - f) for t, (_, f) in zip(times, outputs, strict=True))
print(f"largest error of the predicted test outputs: {gap / np.linalg.norm(flow.test(np.inf) - test_initial):.1%}")
