"""Networks of dense layers alone."""

import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from npk.networks.weights import Activation, he_normal, lecun_normal


class MLP(nn.Module):
    """A fully connected network; inputs of more than one axis are flattened.

    Args:
        width: units of every hidden layer.
        depth: weight layers d; there are d - 1 layers of gates.
        outputs: number of logits.
        use_bias: whether the layers have biases.
        activation: nonlinearity of the hidden layers.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from npk.networks import MLP
        >>> mlp = MLP(width=16, depth=3, outputs=10)
        >>> variables = mlp.init(jax.random.key(0), jnp.ones((1, 64)))
        >>> mlp.apply(variables, jnp.ones((5, 64))).shape
        (5, 10)
    """

    width: int = 128
    depth: int = 4
    outputs: int = 10
    use_bias: bool = True
    activation: Activation = nn.relu

    @nn.compact
    def __call__(self, x: Float[Array | np.ndarray, "n ..."]) -> Float[Array, "n k"]:
        """Logits of a batch."""
        x = x.reshape(x.shape[0], -1)
        for _ in range(self.depth - 1):
            x = self.activation(nn.Dense(self.width, use_bias=self.use_bias, kernel_init=he_normal)(x))
        return nn.Dense(self.outputs, use_bias=self.use_bias, kernel_init=lecun_normal)(x)
