import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal, variables
from tolerances import assert_close

import npk
from npk import networks
from npk.networks.tokens import Attention, attend, patches, rotate

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
    "convnext": ((8, 8, 2), {"width": 4}),
    "mixer": ((8, 8, 2), {"width": 6, "depth": 1}),
    "vit": ((8, 8, 2), {"width": 8, "depth": 1}),
    "vit-rows": ((4, 6, 2), {"width": 8, "depth": 1}),
    "vit-tiny": ((8, 8, 2), {"width": 6, "depth": 1}),
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


def parameters(net, shape, dtype=jnp.float32):
    return count(jax.eval_shape(net.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *shape), dtype)))


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


@pytest.mark.parametrize(
    ("net", "shape", "size"),
    # timm's vit_tiny_patch16_224 and mixer_b16_224, torchvision's convnext_tiny; GPT-2 and LLaMA 3 8B as released.
    [
        (networks.ViT(patch=16, width=192, depth=12, heads=3, pooling="cls", outputs=1000), (224, 224, 3), 5_717_416),
        (networks.MLPMixer(patch=16, width=768, depth=12, outputs=1000), (224, 224, 3), 59_880_472),
        (
            networks.ConvNeXt(width=96, depths=(3, 3, 9, 3), stem=4, window=7, outputs=1000),
            (224, 224, 3),
            28_589_128,
        ),
        (networks.GPT(vocabulary=50257, length=1024, width=768, depth=12, heads=12), (3,), 124_439_808),
        (
            networks.LLaMA(vocabulary=128256, width=4096, depth=32, heads=32, kv_heads=8, hidden=14336),
            (3,),
            8_030_261_248,
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_parameter_counts_of_transformers_are_those_released(net, shape, size):
    assert parameters(net, shape, jnp.float32 if len(shape) == 3 else jnp.int32) == size


def test_parameter_counts_of_small_transformers():
    # Width 6, 2 heads of 3, hidden 24; 4 tokens of 2·2·2 pixels. Norms 2·6, attention 4 layers, MLP 2 layers.
    layer = 2 * 12 + 4 * (6 * 6 + 6) + (6 * 24 + 24) + (24 * 6 + 6)
    vit = (8 * 6 + 6) + 4 * 6 + layer + 12 + (6 * 3 + 3)
    net = networks.ViT(patch=2, width=6, depth=1, heads=2, outputs=3)
    assert parameters(net, (4, 4, 2)) == vit
    assert parameters(net.clone(pooling="cls"), (4, 4, 2)) == vit + 6 + 6
    bare = (8 * 6) + 4 * 6 + (2 * 6 + 4 * 36 + 2 * 144) + 6 + 6 * 3
    assert parameters(net.clone(use_bias=False), (4, 4, 2)) == bare
    # Tokens of which 5 are known, 7 positions.
    gpt = networks.GPT(vocabulary=5, length=7, width=6, depth=1, heads=2)
    tied = 5 * 6 + 7 * 6 + layer + 12
    assert parameters(gpt, (3,), jnp.int32) == tied
    assert parameters(gpt.clone(tied=False), (3,), jnp.int32) == tied + 6 * 5
    assert parameters(gpt.clone(outputs=2), (3,), jnp.int32) == tied + 6 * 2
    # Width 8, 4 heads of queries and 2 of keys, each of 2; hidden 8·3 = 24.
    llama = networks.LLaMA(vocabulary=5, width=8, depth=2, heads=4, kv_heads=2)
    layer = 2 * 8 + (8 * 8 + 2 * 8 * 4 + 8 * 8) + 3 * 8 * 24
    assert parameters(llama, (3,), jnp.int32) == 5 * 8 + 2 * layer + 8 + 8 * 5


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
        (lambda: networks.build("convnext", outputs=2, depth=3), "convnext has a fixed depth"),
        (lambda: parameters(networks.ConvNeXt(depths=(1, 1, 1)), (7, 9, 1)), "divide images by 8: got 7x9 pixels"),
        (lambda: parameters(networks.ViT(patch=4), (8, 6, 1)), "patches of 4x4 pixels do not fill an image of 8x6"),
        (lambda: parameters(networks.MLPMixer(patch=(0, None)), (8, 6, 1)), "patches of 0x6 pixels do not fill"),
        (lambda: parameters(networks.ViT(pooling="max"), (8, 8, 1)), "pooling must be 'mean' or 'cls', got 'max'"),
        (lambda: parameters(networks.ViT(width=10), (8, 8, 1)), "multiple of heads, got width 10 and 4 heads"),
        (lambda: parameters(networks.GPT(length=4), (5,), jnp.int32), "positions for 4 tokens, got 5"),
        (lambda: parameters(networks.LLaMA(kv_heads=3), (5,), jnp.int32), "multiple of kv_heads, got 4 and 3"),
        (lambda: parameters(networks.LLaMA(width=12), (5,), jnp.int32), "width / heads must be even, got 12 / 4"),
        (lambda: parameters(networks.VGG16(pooling="mean"), (32, 32, 1)), "pooling must be 'max' or 'average'"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- tokens -----------------------------------------------------------------------------------------

DECODERS = {
    "gpt": networks.GPT(vocabulary=11, length=9, width=8, depth=2, heads=2, hidden=16),
    "gpt of classes": networks.GPT(vocabulary=11, length=9, width=8, depth=2, heads=2, hidden=16, outputs=3),
    "llama": networks.LLaMA(vocabulary=11, width=8, depth=2, heads=4, kv_heads=2, hidden=16),
}
TOKENS = np.random.default_rng(0).integers(11, size=(3, 7))
decoders = pytest.mark.parametrize("name", DECODERS)


@functools.cache
def decoded(name):
    """A decoder: module, variables, its logits of the tokens."""
    net = DECODERS[name]
    drawn = variables(net, jnp.asarray(TOKENS))
    return net, drawn, jax.jit(net.apply)(drawn, TOKENS)


@decoders
def test_a_token_does_not_see_those_after_it(name):
    net, drawn, logits = decoded(name)
    assert logits.shape == (3, 7, 3 if "classes" in name else 11)
    for length in (1, 4):
        assert_close(jax.jit(net.apply)(drawn, TOKENS[:, :length]), logits[:, :length])
    later = TOKENS.copy()
    later[:, 4:] = (later[:, 4:] + 1) % 11
    changed = jax.jit(net.apply)(drawn, later)
    np.testing.assert_array_equal(changed[:, :4], logits[:, :4])
    assert np.abs(changed[:, 4:] - logits[:, 4:]).max(-1).min() > 1e-3
    earlier = TOKENS.copy()
    earlier[:, 0] = (earlier[:, 0] + 1) % 11
    assert np.abs(jax.jit(net.apply)(drawn, earlier) - logits).max(-1).min() > 1e-5


@decoders
def test_the_last_position_alone_and_the_logits_of_vectors(name):
    net, drawn, logits = decoded(name)
    last = net.clone(last=True)
    assert_close(jax.jit(last.apply)(drawn, TOKENS), logits[:, -1])
    vectors = jax.jit(functools.partial(net.apply, method="embed"))(drawn, TOKENS)
    assert vectors.shape == (3, 7, 8)
    assert_close(jax.jit(functools.partial(last.apply, method="decode"))(drawn, vectors), logits[:, -1])


def test_the_order_of_earlier_tokens_counts_by_positions_alone():
    """In one layer, the last token sees the others as a set, but for where they are."""
    swapped = TOKENS[:, [2, 1, 0, *range(3, 7)]]
    for name in ("gpt", "llama"):
        net = DECODERS[name].clone(depth=1, last=True)
        drawn = variables(net, jnp.asarray(TOKENS))
        apply = jax.jit(net.apply)
        distance = np.abs(apply(drawn, TOKENS) - apply(drawn, swapped)).max(-1)
        assert (distance[TOKENS[:, 0] != TOKENS[:, 2]] > 1e-4).all() and (TOKENS[:, 0] != TOKENS[:, 2]).any()
    net = DECODERS["gpt"].clone(depth=1, last=True)
    drawn = variables(net, jnp.asarray(TOKENS))
    drawn["params"]["positions"] = jnp.zeros((9, 8))
    apply = jax.jit(net.apply)
    assert_close(apply(drawn, TOKENS), apply(drawn, swapped))


def test_products_of_rotated_vectors_depend_on_the_distance_alone():
    q, k = normal(1, 1, 1, 6), normal(1, 1, 1, 6, seed=1)

    def product(m, n):
        a, b = rotate(q, np.array([m]), 100.0), rotate(k, np.array([n]), 100.0)
        return (a * b).sum()

    assert_close(product(5, 3), product(12, 10))
    assert_close(product(3, 5), product(10, 12))
    assert abs(product(5, 3) - product(5, 4)) > 1e-2 and abs(product(5, 3) - product(3, 5)) > 1e-2
    assert_close(product(4, 4), (q * k).sum())
    turned = rotate(jnp.eye(6)[:1].reshape(1, 1, 1, 6), np.array([2]), 100.0)
    assert_close(turned.ravel(), np.array([np.cos(2), 0, 0, np.sin(2), 0, 0]), factor=10)


def test_attention_is_that_written_out():
    """Also with keys shared by groups: the queries' heads 0, 1 take the first, 2, 3 the second."""
    init = jax.nn.initializers.normal()
    for heads, kv_heads in ((4, 4), (4, 2)):
        net, x = Attention(heads, init, init, kv_heads=kv_heads, causal=True), normal(2, 5, 8)
        drawn = variables(net, x)
        q, k, v = (
            np.asarray(x @ drawn["params"][name]["kernel"] + drawn["params"][name]["bias"][None, None], np.float64)
            for name in ("query", "key", "value")
        )
        expected = np.zeros((2, 5, 8))
        for h in range(heads):
            own, shared = slice(2 * h, 2 * h + 2), slice(2 * (h * kv_heads // heads), 2 * (h * kv_heads // heads) + 2)
            for t in range(5):
                scores = np.einsum("nd,nsd->ns", q[:, t, own], k[:, : t + 1, shared]) / np.sqrt(2)
                weights = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
                expected[:, t, own] = np.einsum("ns,nsd->nd", weights, v[:, : t + 1, shared])
        out = drawn["params"]["out"]
        assert_close(jax.jit(net.apply)(drawn, x), expected @ np.asarray(out["kernel"]) + np.asarray(out["bias"]))


@pytest.mark.standard_dtypes
def test_attention_of_double_precision_keeps_it(x64):
    q, k, v = normal(2, 5, 4, 6), normal(2, 5, 2, 6, seed=1), normal(2, 5, 2, 6, seed=2)
    for causal in (False, True):
        found = attend(q, k, v, causal)
        jaxs = jax.nn.dot_product_attention(q, k, v, is_causal=causal, implementation="xla")  # in float32
        np.testing.assert_allclose(found, jaxs, atol=1e-5)
        scores = np.einsum("nthd,nshd->nhts", q, np.repeat(k, 2, axis=2)) / np.sqrt(6)
        weights = np.exp(np.where(np.tril(np.ones((5, 5))) + (not causal) > 0, scores, -np.inf))
        expected = np.einsum("nhts,nshd->nthd", weights / weights.sum(-1, keepdims=True), np.repeat(v, 2, axis=2))
        assert found.dtype == np.float64
        assert_close(found, expected)


def test_patches_are_the_pixels_row_by_row():
    x = np.arange(2 * 4 * 6 * 3, dtype=np.float32).reshape(2, 4, 6, 3)
    found = patches(x, (2, 3))
    assert found.shape == (2, 4, 18)
    np.testing.assert_array_equal(found[:, 1], x[:, :2, 3:].reshape(2, 18))
    np.testing.assert_array_equal(found[:, 2], x[:, 2:, :3].reshape(2, 18))
    np.testing.assert_array_equal(patches(x, (1, None)), x.reshape(2, 4, 18))
    np.testing.assert_array_equal(patches(x, 2), patches(x, (2, 2)))


@pytest.mark.parametrize("kind", [networks.ViT, networks.MLPMixer])
def test_rows_as_tokens_are_the_columns_of_the_image_on_its_side(kind):
    x = normal(3, 4, 6, 1)
    rows = kind(patch=(1, None), width=8, depth=1, outputs=3)
    drawn = variables(rows, x)
    logits = jax.jit(rows.apply)(drawn, x)
    np.testing.assert_array_equal(jax.jit(rows.clone(patch=(1, 6)).apply)(drawn, x), logits)
    assert_close(jax.jit(rows.clone(patch=(None, 1)).apply)(drawn, x.swapaxes(1, 2)), logits)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_vit_without_positions_does_not_change_with_the_order_of_patches(pooling):
    net, x = networks.ViT(patch=(1, None), width=8, depth=2, heads=2, outputs=3, pooling=pooling), normal(3, 4, 6, 1)
    drawn = variables(net, x)
    apply, shuffled = jax.jit(net.apply), x[:, [2, 0, 3, 1]]
    assert np.abs(apply(drawn, shuffled) - apply(drawn, x)).max(-1).min() > 1e-2
    drawn["params"]["positions"] = jnp.zeros_like(drawn["params"]["positions"])
    assert_close(apply(drawn, shuffled), apply(drawn, x))


def test_mixer_does_not_change_with_the_order_of_patches_where_its_weights_change_with_it():
    net, x = networks.MLPMixer(patch=(1, None), width=8, depth=2, outputs=3), normal(3, 4, 6, 1)
    drawn, order = variables(net, x), np.array([2, 0, 3, 1])
    apply = jax.jit(net.apply)
    assert np.abs(apply(drawn, x[:, order]) - apply(drawn, x)).max(-1).min() > 1e-2
    moved = jax.tree.map(lambda leaf: leaf, drawn)
    for layer in range(2):
        mlp = moved["params"][f"tokens_{layer}"]
        mlp["in"]["kernel"] = mlp["in"]["kernel"][order]
        mlp["out"] = {"kernel": mlp["out"]["kernel"][:, order], "bias": mlp["out"]["bias"][order]}
    assert_close(apply(moved, x[:, order]), apply(drawn, x))


def test_convnext_blocks_scaled_by_zero_are_none():
    net, x = networks.ConvNeXt(width=4, depths=(1,), outputs=3), normal(2, 8, 8, 1)
    drawn = variables(net, x)
    block = drawn["params"]["block_0_0"]
    assert block["depthwise"]["kernel"].shape == (3, 3, 1, 4)
    without = jax.jit(net.clone(depths=(0,)).apply)(drawn, x)
    assert np.abs(jax.jit(net.apply)(drawn, x) - without).max(-1).min() > 1e-2
    block["layer_scale"] = jnp.zeros(4)
    assert_close(jax.jit(net.apply)(drawn, x), without)


def test_initial_weights_are_those_of_the_papers():
    deviation = lambda leaf: float(np.std(np.asarray(leaf)))  # noqa: E731
    key, tokens = jax.random.key(0), jnp.zeros((1, 4), jnp.int32)
    gpt = jax.jit(networks.GPT(depth=2).init)(key, tokens)["params"]
    assert deviation(gpt["tokens"]["embedding"]) == pytest.approx(0.02, rel=0.05)
    assert deviation(gpt["layers_1"]["mlp"]["in"]["kernel"]) == pytest.approx(0.02, rel=0.05)
    assert deviation(gpt["layers_1"]["mlp"]["out"]["kernel"]) == pytest.approx(0.01, rel=0.05)
    assert deviation(gpt["layers_0"]["attention"]["out"]["kernel"]) == pytest.approx(0.01, rel=0.05)
    vit = jax.jit(networks.ViT(depth=1).init)(key, jnp.ones((1, 8, 8, 1)))["params"]
    assert deviation(vit["layers_0"]["attention"]["query"]["kernel"]) == pytest.approx((2 / 128) ** 0.5, rel=0.05)
    assert deviation(vit["layers_0"]["mlp"]["in"]["kernel"]) == pytest.approx((2 / 320) ** 0.5, rel=0.05)
    convnext = jax.jit(networks.ConvNeXt(depths=(1,)).init)(key, jnp.ones((1, 8, 8, 1)))["params"]["block_0_0"]
    assert deviation(convnext["mlp"]["in"]["kernel"]) == pytest.approx(0.02, rel=0.05)
    np.testing.assert_array_equal(convnext["layer_scale"], np.full(32, 1e-6, np.float32))


def test_build_gives_the_presets_and_takes_sizes_over_them():
    tiny = networks.build("vit-tiny", outputs=10)
    assert (tiny.width, tiny.depth, tiny.heads, tiny.pooling) == (192, 12, 3, "cls")
    assert tiny.activation is networks.ViT().activation
    assert networks.build("vit-tiny", outputs=10, depth=2, activation=identity) == tiny.clone(
        depth=2, activation=identity
    )
    assert networks.build("vit-rows", outputs=10).patch == (1, None)
    assert networks.build("mlp", outputs=10).activation is jax.nn.relu
