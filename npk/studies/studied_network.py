"""The network of a study: a Flax module, its parameters, and how it is asked and trained."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from npk import networks, training
from npk.data import Dataset
from npk.programs import program_hash
from npk.studies.fitting import TRAINED, check_network
from npk.studies.stages import Asked, asked_of
from npk.training import SNAPSHOTS

# Deep enough that what gates learn is seen beyond its interval.
_DEPTHS = {"mlp": 6}


@dataclasses.dataclass(frozen=True, eq=False)
class StudiedNetwork:
    """A network that is trained, and what is asked of it."""

    module: Any
    variables: Any
    asked: Asked
    forward: Callable[[Any, Any], tuple[Any, Any]]

    def programs(self, x: Any) -> dict[str, str | None]:
        """Hashes of what it computes."""
        return {
            "network": training.hash_of_step(self.forward, self.variables, x),
            "initialisation": program_hash(self.module.init, jax.random.key(0), x),
        }

    def describe(self) -> dict[str, Any]:
        """What the page of a study says of it."""
        fields = {"width", "channels", "depth", "outputs", "use_bias", "norm", "padding"}
        module = self.module
        return {
            "kind": type(module).__name__,
            **{f.name: getattr(module, f.name) for f in dataclasses.fields(module) if f.name in fields},
            "beta": self.asked.beta,
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
    """That of a study's configuration."""
    module = networks.build(
        config.network,
        outputs=len(data.class_names),
        width=config.width,
        depth=config.depth or _DEPTHS.get(config.network),
        use_bias=config.use_bias,
        activation=jax.nn.relu,
    )
    check_network("width", config.width, module.init, data.x_train[:1], TRAINED + SNAPSHOTS)
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    variables = jax.jit(module.init)(key, data.x_train[:1])
    return StudiedNetwork(module, variables, asked_of(module.apply, config.beta), learning_step(module.apply))
