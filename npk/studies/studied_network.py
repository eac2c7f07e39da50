"""The network of a study, and what is asked of it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from npk import networks, training
from npk.data import Dataset
from npk.gating import activation_program, activations, gates, soft_relu
from npk.path_kernels import path_kernel
from npk.programs import program_hash
from npk.studies.fitting import TRAINED, check_network
from npk.tangent_kernels import split_ntk
from npk.training import SNAPSHOTS


class StudiedNetwork:
    """A network and what is asked of it: compiled once for all stages."""

    def __init__(self, module: Any, soft_module: Any, variables: Any) -> None:
        self.module, self.variables = module, variables
        self.logits, self.forward = jax.jit(module.apply), learning_step(module.apply)
        self.gates = jax.jit(gates(module.apply))
        self.path_kernel = path_kernel(module.apply)
        self.soft_module, self.split = soft_module, split_ntk(soft_module.apply)

    def programs(self, x: Any) -> dict[str, str | None]:
        """Hashes of what it computes."""
        return {
            "network": training.hash_of_step(self.forward, self.variables, x),
            "soft network": program_hash(self.soft_module.apply, self.variables, x),
            "initialisation": program_hash(self.module.init, jax.random.key(0), x),
        }

    def kinds(self, x: Any) -> list[str]:
        """Of the gates, in call order: "activation", or what else multiplies ("scale", "pattern", "product")."""
        program = activation_program(self.module.apply, self.variables, x)
        found = [equation.activation for equation in activations(program)]
        return [gate.kind if gate.alone else "activation" for gate in found if gate is not None]

    def describe(self) -> dict[str, Any]:
        """What the page of a study says of it."""
        fields = {"width", "channels", "depth", "outputs", "use_bias", "norm", "padding"}
        module = self.module
        return {
            "kind": type(module).__name__,
            **{f.name: getattr(module, f.name) for f in dataclasses.fields(module) if f.name in fields},
            "parameters": sum(leaf.size for leaf in jax.tree_util.tree_leaves(self.variables["params"])),
        }


def learning_step(apply: Callable[..., Any]) -> Callable[[Any, Any], tuple[Any, Any]]:
    """Logits and variables of a step of training: batch normalisation by the batch's own statistics."""

    def forward(variables: Any, x: Any) -> tuple[Any, Any]:
        if "batch_stats" not in variables:
            return apply(variables, x), variables
        logits, updated = apply(variables, x, train=True, mutable=["batch_stats"])
        return logits, {**variables, **updated}

    return forward


def build(config: Any, data: Dataset) -> StudiedNetwork:
    """That of a study's configuration, and the same with soft gates."""
    module, soft_module = (
        networks.build(
            config.network,
            outputs=len(data.class_names),
            width=config.width,
            depth=config.depth,
            use_bias=config.use_bias,
            activation=activation,
        )
        for activation in (jax.nn.relu, lambda q: soft_relu(q, config.beta))
    )
    check_network("width", config.width, module.init, data.x_train[:1], TRAINED + SNAPSHOTS)
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    return StudiedNetwork(module, soft_module, jax.jit(module.init)(key, data.x_train[:1]))
