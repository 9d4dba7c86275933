"""BERT in float64 NumPy, for one unpadded line: the plain statement of the mathematics.

It shares no code with the package. Weights go by Google's TF1 names, the config is the
JSON object as it is read. T tokens, H hidden_size, N heads, D head size.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# [T, num_inputs], [num_inputs, num_outputs], the kernel's name -> [T, num_outputs]
Product = Callable[[Array, Array, str], Array]
LAYER_NORM_EPS = 1e-12


@dataclass(frozen=True)
class ReferenceOutput:
    embeddings: Array  # [T, H]
    layers: list[Array]  # one [T, H] for each encoder layer


def gelu_tanh(x: Array) -> Array:
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    activated: Array = 0.5 * x * (1 + np.tanh(inner))
    return activated


def gelu_erf(x: Array) -> Array:
    erf = np.vectorize(math.erf, otypes=[np.float64])
    return np.asarray(0.5 * x * (1 + erf(x / math.sqrt(2))), dtype=np.float64)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu_tanh,
    "gelu_erf": gelu_erf,
    "relu": lambda x: np.maximum(x, 0.0),
    "tanh": np.tanh,
    "linear": lambda x: x,
}


def run_bert(
    weights: Mapping[str, NDArray[Any]],
    config: Mapping[str, Any],
    input_ids: Sequence[int],
    token_type_ids: Sequence[int],
    hidden_act: str | None = None,
    product: Product = lambda x, kernel, name: x @ kernel,
) -> ReferenceOutput:
    """The embeddings and all encoder layers.

    `hidden_act` overrides the config's, and `product` the way in which a dense layer
    multiplies its input by the kernel of a name.
    """
    model = _Model(weights, config, hidden_act or config["hidden_act"], product)
    embeddings = model.embed(input_ids, token_type_ids)
    layers = []
    hidden = embeddings
    for layer in range(config["num_hidden_layers"]):
        hidden = model.encode(hidden, f"bert/encoder/layer_{layer}")
        layers.append(hidden)
    return ReferenceOutput(embeddings, layers)


def pool(weights: Mapping[str, NDArray[Any]], last_layer: Array) -> Array:
    """The pooler: tanh of a dense layer over [CLS]. Returns [H]."""
    kernel = weights["bert/pooler/dense/kernel"].astype(np.float64)
    bias = weights["bert/pooler/dense/bias"].astype(np.float64)
    pooled: Array = np.tanh(last_layer[0] @ kernel + bias)
    return pooled


class _Model:
    def __init__(
        self,
        weights: Mapping[str, NDArray[Any]],
        config: Mapping[str, Any],
        hidden_act: str,
        product: Product,
    ) -> None:
        self.weights = weights
        self.product = product
        self.num_heads: int = config["num_attention_heads"]
        self.activation = ACTIVATIONS[hidden_act]

    def variable(self, name: str) -> Array:
        return np.asarray(self.weights[name], np.float64)

    def dense(self, x: Array, name: str) -> Array:
        kernel = f"{name}/kernel"
        product = self.product(x, self.variable(kernel), kernel)
        return product + self.variable(f"{name}/bias")

    def layer_norm(self, x: Array, name: str) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = np.square(centred).mean(axis=-1, keepdims=True)
        normalised = centred / np.sqrt(variance + LAYER_NORM_EPS)
        gamma = self.variable(f"{name}/LayerNorm/gamma")
        beta = self.variable(f"{name}/LayerNorm/beta")
        scaled: Array = normalised * gamma + beta
        return scaled

    def embed(self, input_ids: Sequence[int], token_type_ids: Sequence[int]) -> Array:
        scope = "bert/embeddings"
        words = self.weights[f"{scope}/word_embeddings"][list(input_ids)]
        segments = self.variable(f"{scope}/token_type_embeddings")[list(token_type_ids)]
        positions = self.variable(f"{scope}/position_embeddings")[: len(input_ids)]
        total = words.astype(np.float64) + segments + positions
        return self.layer_norm(total, scope)

    def attend(self, x: Array, scope: str) -> Array:
        context = np.empty_like(x)
        query = self.dense(x, f"{scope}/query")
        key = self.dense(x, f"{scope}/key")
        value = self.dense(x, f"{scope}/value")
        head_size = x.shape[1] // self.num_heads
        for head in range(self.num_heads):
            columns = slice(head * head_size, (head + 1) * head_size)
            scores = query[:, columns] @ key[:, columns].T / math.sqrt(head_size)
            exponents = np.exp(scores - scores.max(axis=1, keepdims=True))
            probabilities = exponents / exponents.sum(axis=1, keepdims=True)  # [T, T]
            context[:, columns] = probabilities @ value[:, columns]
        return context

    def encode(self, x: Array, scope: str) -> Array:
        attention = self.attend(x, f"{scope}/attention/self")
        attention = self.dense(attention, f"{scope}/attention/output/dense")
        x = self.layer_norm(x + attention, f"{scope}/attention/output")
        wide = self.activation(self.dense(x, f"{scope}/intermediate/dense"))
        narrow = self.dense(wide, f"{scope}/output/dense")
        return self.layer_norm(x + narrow, f"{scope}/output")
