# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Paths and gates
#
# A ReLU network is a value function and its gates. For each input, the units that are switched on pick an
# active sub-network, and the output is an inner product over *paths*: the **neural path feature** (NPF)
# $\phi_x$ holds the input and the gates, the **neural path value** (NPV) $v$ holds the weights,
#
# $$f(x) = \langle \phi_x, v\rangle.$$
#
# We start from a network whose paths one can count on one's fingers, and end with the exact path kernel of
# a convolutional network that has far too many to list.

# %%
import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import npk

plt.rcParams.update({"figure.dpi": 110, "image.cmap": "viridis", "font.size": 9})


# %% [markdown]
# ## A network of twelve paths
#
# Two inputs, two hidden layers of three and two units, one output: $2\cdot 3\cdot 2 = 12$ paths. It is an ordinary
# function of parameters and a batch.


# %%
def f(params, x):
    h = jax.nn.relu(x @ params["W1"])
    h = jax.nn.relu(h @ params["W2"])
    return h @ params["W3"]


keys = jax.random.split(jax.random.key(4), 4)
params = {
    "W1": jax.random.normal(keys[0], (2, 3)),
    "W2": jax.random.normal(keys[1], (3, 2)),
    "W3": jax.random.normal(keys[2], (2, 1)),
}
x = jax.random.normal(keys[3], (6, 2))
print(npk.count_paths(f)(params), "paths")
npk.path_names(f)(params)[:4]

# %% [markdown]
# What npk took `f` to be is not hidden: every parameter, every gate, and whether all of it is certain.

# %%
npk.explain(f)(params, x)

# %% [markdown]
# `npk.gates(f)` is a function like `f` itself; it returns one array of gates a layer: 1 where the unit is on.

# %%
gates = npk.gates(f)(params, x)
fig, axes = plt.subplots(1, 2, figsize=(5, 2.4))
for number, (axis, gate) in enumerate(zip(axes, gates, strict=True), start=1):
    axis.imshow(gate, vmin=0, vmax=1, cmap="Greys", aspect="auto")
    axis.set(title=f"gates $G_{number}$", xlabel="unit", ylabel="input", xticks=range(gate.shape[1]))
fig.tight_layout()

# %% [markdown]
# Given its gates the network is linear: `npk.gated(f)` computes it with gates from anywhere. With its own gates it
# is `f`.

# %%
bool(jnp.all(npk.gated(f)(params, x, gates) == f(params, x)))

# %% [markdown]
# ## Features and values: $f(x) = \langle\phi_x, v\rangle$

# %%
phi = npk.npf(f)(params, x)  # [inputs, paths]
v = npk.npv(f)(params)  # [paths, outputs]

fig, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8), width_ratios=(5, 1))
bound = float(jnp.abs(phi).max())
image = left.imshow(phi, cmap="RdBu_r", vmin=-bound, vmax=bound, aspect="auto")
left.set(title=r"neural path features $\phi$", xlabel="path", ylabel="input")
fig.colorbar(image, ax=left)
right.barh(range(len(v)), v[:, 0], color="0.4")
right.invert_yaxis()
right.set(title="values $v$", xlabel="product of weights", ylabel="path")
fig.tight_layout()
print("largest difference of <phi, v> from f(x):", float(jnp.abs(phi @ v - f(params, x)).max()))

# %% [markdown]
# ## The path kernel $H = \Sigma \odot \Lambda$
#
# The kernel of the features, $H(x, x') = \langle\phi_x, \phi_{x'}\rangle$, compares two inputs by the paths that
# are open for both. In a dense network without biases it factors: $\Sigma = XX^\top$ compares the inputs, and
# $\Lambda = \prod_l G_l G_l^\top$ *counts* the paths active for both. No weight appears in it.

# %%
counts = {
    r"$\Sigma = XX^\top$": npk.gram(x, normalize=False),
    r"$\Lambda = \prod_l G_l G_l^\top$": npk.overlap(gates, normalize=False),
    r"$H = \Sigma \odot \Lambda$": npk.path_kernel(f)(params, x, normalize=False),
}
fig, axes = plt.subplots(1, 3, figsize=(9, 2.8))
for axis, (title, matrix) in zip(axes, counts.items(), strict=True):
    image = axis.imshow(matrix)
    axis.set(title=title, xlabel="input", ylabel="input")
    fig.colorbar(image, ax=axis, shrink=0.8)
fig.tight_layout()

sigma, lam, h = counts.values()
print("H = Sigma * Lambda:", bool(jnp.allclose(h, sigma * lam)))
print("H = phi phi^T:", bool(jnp.allclose(h, phi @ phi.T, atol=1e-5)))
lam.astype(int)


# %% [markdown]
# ## What $H$ is to random weights
#
# Keep the gates, forget the weights: draw them anew, each $\pm 1$. The network's outputs then have covariance
# exactly $H$, at any width. Ten thousand draws come close:


# %%
def draw(key):
    leaves, tree = jax.tree.flatten(params)
    signs = [jax.random.rademacher(k, w.shape, w.dtype) for k, w in zip(jax.random.split(key, 3), leaves, strict=True)]
    y = npk.gated(f)(jax.tree.unflatten(tree, signs), x, gates)[:, 0]
    return jnp.outer(y, y)


covariance = jax.vmap(draw)(jax.random.split(jax.random.key(1), 10_000)).mean(0)
fig, axis = plt.subplots(figsize=(3, 3))
axis.plot(h.ravel(), covariance.ravel(), "o", ms=4)
axis.axline((0, 0), slope=1, color="0.6", lw=1)
axis.set(xlabel=r"path kernel $H$", ylabel="covariance of $f$ over 10,000 draws")
fig.tight_layout()


# %% [markdown]
# ## A convolutional network
#
# Nothing was special about the small network. Here is an ordinary Flax model: two circular convolutions, global average
# pooling, a dense layer (without biases: a bias of variance one would drown these small images). Paths that use
# the same weights at different positions form one coordinate.


# %%
class CNN(nn.Module):
    width: int = 32

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(self.width, (3, 3), padding="CIRCULAR", use_bias=False)(x))
        x = nn.relu(nn.Conv(self.width, (3, 3), padding="CIRCULAR", use_bias=False)(x))
        return nn.Dense(10, use_bias=False)(x.mean((1, 2)))


from sklearn.datasets import load_digits  # noqa: E402

digits = load_digits()
order = digits.target[:60].argsort(kind="stable")
images = jnp.asarray(digits.images[:60][order, ..., None] / 16, jnp.float32)
labels = digits.target[:60][order]

cnn = CNN()
weights = cnn.init(jax.random.key(0), images)
print(f"{npk.count_paths(cnn.apply)(weights, images):,} path coordinates at width 32,")
wide = CNN(width=1024)
shapes = jax.eval_shape(wide.init, jax.random.key(0), images)
print(f"{npk.count_paths(wide.apply)(jax.tree.map(lambda s: jnp.zeros(s.shape), shapes), images):,} at width 1024")

# %% [markdown]
# `path_kernel` never lists them. It follows the covariance of the network through its layers, and is exact.

# %%
kernel = npk.path_kernel(cnn.apply)(weights, images)
shifted = npk.path_kernel(cnn.apply)(weights, jnp.roll(images, (2, 3), (1, 2)), images)

fig, axes = plt.subplots(1, 2, figsize=(8, 3.4))
titles = ("$H$ of the CNN, digits ordered by class", "the rows' images shifted by (2, 3)")
for axis, matrix, title in zip(axes, (kernel, shifted), titles, strict=True):
    image = axis.imshow(matrix)
    axis.set(title=title, xlabel="image", ylabel="image")
    fig.colorbar(image, ax=axis, shrink=0.8)
fig.tight_layout()
print("largest change of H by the shift:", float(jnp.abs(kernel - shifted).max() / jnp.abs(kernel).max()))

# %% [markdown]
# With circular padding and global average pooling the path kernel does not see where in the image things are: it
# is invariant to shifts of either input. That is the convolutional network's prior, read off its gates.
