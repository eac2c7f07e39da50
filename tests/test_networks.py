import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal, variables
from tolerances import assert_close

import npk
from npk import networks

SMALL = {
    "mlp": ((8, 8, 1), {"width": 7, "depth": 3}),
    "c4gap": ((8, 8, 2), {"width": 4}),
    "c4gap-circular": ((8, 8, 2), {"width": 4}),
    "vconv": ((6, 6, 1), {"width": 4}),
    "gconv": ((8, 8, 2), {"width": 2}),
    "gconv-flat": ((6, 6, 1), {"width": 2}),
    "vgg16": ((32, 32, 1), {"width": 2}),
    "vgg16-bn": ((32, 32, 1), {"width": 2}),
    "vgg16-bn-average": ((32, 32, 1), {"width": 2}),
    "resnet": ((8, 8, 3), {"width": 4, "depth": 8}),
    "resnet-bn": ((8, 8, 3), {"width": 4, "depth": 8}),
}


def built(name, activation=jax.nn.relu):
    return networks.build(name, outputs=3, activation=activation, **SMALL[name][1])


@functools.cache
def small(name):
    """A small network of that name: module, variables, four samples."""
    net, x = built(name), normal(4, *SMALL[name][0])
    return net, variables(net, x), x


@functools.cache
def forward(name):
    """Its compiled forward pass, and the logits of its samples."""
    net, variables, x = small(name)
    apply = jax.jit(net.apply)
    return apply, apply(variables, x)


def identity(q):
    return q


def count(variables):
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def parameters(net, shape):
    return count(jax.eval_shape(net.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *shape), jnp.float32)))


def test_every_network_is_tried():
    assert set(SMALL) == set(networks.NAMES)


@pytest.mark.parametrize("name", SMALL)
def test_logits_have_one_row_a_sample_and_do_not_mix_samples(name):
    _, variables, x = small(name)
    apply, logits = forward(name)
    assert logits.shape == (4, 3)
    assert_close(apply(variables, x[2:3]), logits[2:3])


@pytest.mark.parametrize(
    ("name", "layers"),
    # VGG16: 13 convolutions, 5 max-poolings, 2 dense layers. ResNet-8: one at the start, two a block.
    [("mlp", 2), ("c4gap", 4), ("vconv", 4), ("vgg16", 20), ("vgg16-bn", 20), ("resnet", 7), ("resnet-bn", 7)],
)
def test_gates_of_every_network_reproduce_it(name, layers):
    net, variables, x = small(name)
    gates = jax.jit(npk.gates(net.apply))(variables, x)
    assert len(gates) == layers
    assert_close(jax.jit(npk.gated(net.apply))(variables, x, gates), forward(name)[1])


@pytest.mark.parametrize("name", SMALL)
def test_activation_is_a_field(name):
    _, variables, x = small(name)
    linear = jax.jit(built(name, identity).apply)
    assert not np.allclose(forward(name)[1], linear(variables, x))


def test_parameter_counts_are_those_of_the_literature():
    # torchvision's vgg16().features; He et al.'s ResNet-20 and ResNet-56 of 0.27M and 0.85M, as counted by common code.
    dense = 512 * 512 + 512 + 512 * 512 + 512 + 512 * 10 + 10
    assert parameters(networks.VGG16(), (32, 32, 3)) == 14_714_688 + dense
    assert parameters(networks.ResNet(depth=20, shortcut="identity"), (32, 32, 3)) == 269_722
    assert parameters(networks.ResNet(depth=56, shortcut="identity"), (32, 32, 3)) == 853_018
    assert parameters(networks.MLP(width=5, depth=3, outputs=2), (4,)) == (4 + 1) * 5 + (5 + 1) * 5 + (5 + 1) * 2
    assert parameters(networks.MLP(width=5, depth=3, outputs=2, use_bias=False), (4,)) == 4 * 5 + 5 * 5 + 5 * 2


def test_circular_padding_and_pooling_make_shift_invariance():
    net, variables, x = small("c4gap-circular")
    assert_close(net.apply(variables, jnp.roll(x, (2, 3), axis=(1, 2))), net.apply(variables, x))
    net, variables, x = small("c4gap")
    assert not np.allclose(net.apply(variables, jnp.roll(x, 2, axis=1)), net.apply(variables, x), atol=1e-4)


@pytest.mark.parametrize("name", ["vgg16-bn", "resnet-bn"])
def test_batch_norm_moves_its_statistics_only_in_training(name):
    net, variables, x = small(name)
    apply = jax.jit(functools.partial(net.apply, mutable=["batch_stats"]), static_argnames="train")
    _, same = apply(variables, x)
    _, moved = apply(variables, x, train=True)
    before = jax.tree.leaves(variables["batch_stats"])
    assert all(np.array_equal(a, b) for a, b in zip(before, jax.tree.leaves(same["batch_stats"]), strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(before, jax.tree.leaves(moved["batch_stats"]), strict=True))


def test_shortcuts_differ_only_in_projections():
    shapes = {}
    for shortcut in ("identity", "projection"):
        net = networks.ResNet(depth=8, width=4, shortcut=shortcut, norm=False)
        shapes[shortcut] = parameters(net, (8, 8, 3))
    assert shapes["projection"] - shapes["identity"] == 4 * 8 + 8 * 16


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: networks.build("lenet", outputs=2), "unknown network 'lenet': choose one of mlp, c4gap"),
        (lambda: networks.build("vconv", outputs=2, depth=3), "vconv has a fixed depth"),
        (lambda: networks.build("mlp", outputs=2, width=0), "width must be at least 1, got 0"),
        (lambda: parameters(networks.ResNet(depth=21), (8, 8, 3)), r"depth must be 6n \+ 2"),
        (lambda: parameters(networks.ResNet(depth=2), (8, 8, 3)), r"depth must be 6n \+ 2"),
        (
            lambda: parameters(networks.ResNet(shortcut="none"), (8, 8, 3)),
            "shortcut must be 'projection'",
        ),
        (lambda: parameters(networks.VGG16(), (28, 28, 1)), "they need 32x32 pixels, got 28x28"),
        (lambda: parameters(networks.VGG16(pooling="mean"), (32, 32, 1)), "pooling must be 'max' or 'average'"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
