# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What attention patterns know
#
# A gate is any factor of the values that depends on the input. In a transformer those are the patterns of attention,
# the scales $1/\sigma$ of the norms, and the activations; given all of them the network is linear in its input. So one
# can ask of each kind of gates alone what it has learned.
#
# The task is to look up a letter by its place: "cabfdd2" asks for the letter at place 2, which is b. The network is a
# decoder of one layer.

# %%
import flax.linen as nn
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

import npk
from npk import networks, solving
from npk.training import train

plt.rcParams.update({"figure.dpi": 110, "font.size": 9})

LETTERS = PLACES = 6
rng = np.random.default_rng(0)
letters, asked = rng.integers(0, LETTERS, (3000, PLACES)), rng.integers(0, PLACES, 3000)
x = np.concatenate([letters, LETTERS + asked[:, None]], 1).astype(np.int32)
y = letters[np.arange(3000), asked].astype(np.int32)
(x, x_test), (y, y_test) = np.split(x, [2000]), np.split(y, [2000])

model = networks.GPT(
    vocabulary=12, length=7, outputs=6, width=16, depth=1, heads=1, hidden=16, last=True, activation=nn.relu
)
f = model.apply
first, random, fresh = (model.init(key, x[:1]) for key in jax.random.split(jax.random.key(0), 3))
found = npk.explain(f)(first, x[:2]).gates
kinds = [gate.kind for gate in found]
[(gate.kind, gate.shape, gate.module) for gate in found]


# %%
def learned(f, params, epochs=12):
    options = {"key": jax.random.key(1), "epochs": epochs, "stages": 2, "optimizer": optax.adam(1e-2)}
    last = train(f, params, x, y, **options).stages[-1]
    return last, solving.accuracy(jax.jit(f)(last, x_test), y_test)


trained, accuracy = learned(f, first)
print(f"the network: {accuracy:.1%} of {len(y_test)} test sequences")

# %% [markdown]
# ## The patterns, before and after
#
# What the last token, which holds the question, attends to; a row for each place that it may ask for.

# %%
gates = jax.jit(npk.gates(f))


def attended(params):
    pattern = gates(params, x_test)[kinds.index("pattern")]
    last = np.asarray(pattern).reshape(len(x_test), PLACES + 1, PLACES + 1)[:, -1]
    return np.stack([last[x_test[:, -1] == LETTERS + place].mean(0) for place in range(PLACES)])


fig, axes = plt.subplots(1, 2, figsize=(6.4, 2.8), layout="constrained")
for axis, (title, params) in zip(axes, {"before training": first, "after": trained}.items(), strict=True):
    image = axis.imshow(attended(params), vmin=0, vmax=1, cmap="magma")
    axis.set(title=title, xlabel="place attended to (6: the question)", ylabel="place asked for")
fig.colorbar(image, ax=axes, label="share of attention")
plt.show()

# %% [markdown]
# ## Values under gates from elsewhere
#
# Now the gates are fixed and the values begin afresh, `npk.gated(f)(values, x, gates)`: gates of a random network, of
# the trained one, or some kinds of the one and some of the other.

# %%
gated = npk.gated(f)


def under(*kinds_of_trained):
    def network(values, x):
        pairs = zip(kinds, npk.gates(f)(trained, x), npk.gates(f)(random, x), strict=True)
        return gated(values, x, tuple(a if kind in kinds_of_trained else b for kind, a, b in pairs))

    return network


for title, chosen in {
    "none of the trained network": (),
    "the patterns": ("pattern",),
    "the activations": ("hard",),
    "all": ("pattern", "hard", "scale"),
}.items():
    print(f"{title:28s} {learned(under(*chosen), fresh)[1]:.1%}")

# %% [markdown]
# One seed, one task: `benchmarks/patterns.py` asks the same with several seeds, and of images, see
# [what patterns know](../patterns.md).
#
# ## The kernel of the gates
#
# No values at all: the path kernel $H$ compares two sequences by what their gates let through. With patterns that pick
# the asked letter it says whether two answers are the same, the blocks on the diagonal; what lies outside them is the
# question itself, which goes around the attention: sequences that ask for the same place.

# %%
chosen = np.argsort(y_test[:90], kind="stable")
kernel = npk.path_kernel(f)
fig, axes = plt.subplots(1, 2, figsize=(6.4, 3.1), layout="constrained")
for axis, (title, params) in zip(axes, {"random gates": random, "trained gates": trained}.items(), strict=True):
    h = np.asarray(kernel(params, x_test[:90][chosen]))
    size = np.sqrt(np.diagonal(h))
    aligned = solving.alignment(h, y_test[:90][chosen]).value
    image = axis.imshow(h / np.outer(size, size), vmin=0, vmax=1)
    axis.set(title=f"{title}: alignment {aligned:.2f}", xlabel="sequence, ordered by answer", xticks=[], yticks=[])
fig.colorbar(image, ax=axes, label="$H$, normalised")
plt.show()
