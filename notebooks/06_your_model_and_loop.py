# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your model and your loop
#
# A model of Flax NNX with dropout and its training loop, as you may have them; nothing in them knows of npk. Three
# added lines record how gates and kernels change, and the checkpoints that the loop leaves are read and asked
# afterwards. [Your model](../your_model.md) says more of each line.

# %%
import pathlib
import tempfile

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx

import npk
from npk import data, solving
from npk.studies import AnalysisConfig, analyse

plt.rcParams.update({"figure.dpi": 110})

digits = data.load("digits")
x, y = digits.x_train, digits.y_train


class CNN(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.second = nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.readout = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.first(x))
        x = nnx.relu(self.second(x))
        return self.readout(self.dropout(x.mean((1, 2))))


model = CNN(nnx.Rngs(0))
optimizer = nnx.Optimizer(model, optax.adam(3e-3), wrt=nnx.Param)


@nnx.jit
def update(model, optimizer, images, classes):
    def loss(model):
        return optax.softmax_cross_entropy_with_integer_labels(model(images), classes).mean()

    optimizer.update(model, nnx.grad(loss)(model))


# %% [markdown]
# ## As a function of parameters
#
# `function_of` makes $f(\text{params}, x)$ of the model, in evaluation mode, and leaves the model as it is; random
# numbers of the dropout are no parameters. `explain` says what npk takes it to be: gates and weights where you expect
# them, and whether all of it is certain.

# %%
f, params = npk.loading.function_of(model, x)
reading = npk.explain(f)(params, x[:4])
for parameter in reading.parameters:
    print(parameter.name, parameter.shape)
print([(gate.kind, gate.shape) for gate in reading.gates], "certified:", reading.certified)

# %% [markdown]
# ## The loop
#
# The probe is of test images, as many of every digit. `every` says at which steps to record, whatever that costs;
# without it the recorder chooses them itself, so that records take no more than a share of the time (`budget`, one
# twentieth), and in a loop of a few seconds those would be few. The parameters are what `f` takes, without the state of
# the dropout.

# %%
STEPS, SAVED = 1000, (0, 100, 1000)
probe = data.balanced(digits.y_test, 100, seed=0)
folder = tempfile.TemporaryDirectory()
checkpoints = [pathlib.Path(folder.name) / f"step {step}" for step in SAVED]
rng, saver = np.random.default_rng(0), ocp.StandardCheckpointer()

recorder = npk.track(f, digits.x_test[probe], digits.y_test[probe], every=100)  # added
for step in range(STEPS + 1):
    params = npk.loading.params_of(model)  # added
    recorder(step, params)  # added
    if step in SAVED:
        saver.save(checkpoints[SAVED.index(step)], nnx.state(model))
    batch = rng.integers(0, len(x), 64)
    update(model, optimizer, x[batch], y[batch])
saver.wait_until_finished()
print(recorder)
print(f"the first record took {recorder.first_seconds:.1f} s, the others {recorder.spent:.1f} s together")
print("notes:", {record.note for record in recorder.records} - {""} or "none")

# %%
recorder.plot()

# %% [markdown]
# These are numbers of one run on 100 images, without intervals: something to watch. What they allow to say is asked of
# the checkpoints.
#
# ## The checkpoints
#
# They are folders of Orbax, in which the state of the dropout stands beside the parameters; `like` is a tree of the
# structure that `f` takes. Leaves are found by name and shape, and what does not fit is an error that says so. The
# analysis is the last expression of the cell, so that its page is shown.

# %%
found = analyse(
    f,
    checkpoints,
    x,
    y,
    x_test=digits.x_test,
    y_test=digits.y_test,
    like=params,
    title="the digits",
    model="A convolutional network",
    config=AnalysisConfig(samples=100),
)
found  # noqa: B018

# %% [markdown]
# All its numbers are in `found.content`, each with an interval over images. Of gates alone:

# %%
for stage in found.content["stages"]:
    right, (low, high) = stage["ridge"]["test_accuracy"], stage["intervals"]["ridge"]
    change = "since the first: {:+.3f} [{:+.3f}, {:+.3f}]".format(*stage["since"]["ridge"])
    print(f"{stage['name']:10s} ridge with H {right:.1%} [{low:.1%}, {high:.1%}]  {change}")

# %% [markdown]
# ## One look further
#
# On the page the effective rank of $H$ is close to one, however well $H$ classifies. A path may begin at a bias, where
# it has the number 1, or at a pixel, where it has that of the pixel; those of biases are alike for all images but for
# their gates. Their part of $H$ is what is left for black images under the gates of the real ones:


# %%
def rank(kernel):
    return solving.spectrum(np.asarray(kernel, np.float64)).effective_rank().value


images = jnp.asarray(digits.x_test[probe])
trained = npk.loading.read_checkpoint(checkpoints[-1], params)
folder.cleanup()
gates, kernel = npk.gates(f)(trained, images), npk.path_kernel(f)
whole, from_biases = kernel(trained, images), kernel(trained, 0 * images, gates1=gates)
print(f"share of the trace of H: {np.trace(from_biases) / np.trace(whole):.1%} from biases")
print(f"effective rank: of H {rank(whole):.2f}, of its paths from pixels {rank(whole - from_biases):.2f}")
print(f"of H centred {rank(solving.center(whole)):.2f}")
print(f"of H for weights as large as the network's {rank(kernel(trained, images, normalize='own')):.2f}")

# %% [markdown]
# Where biases have most of the trace, $H$ compares images by their gates and hardly by their pixels. Alignment is
# centred: what all images have in common does not count there.
