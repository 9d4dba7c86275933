"""oneDNN's operations that TensorFlow has, but no function for.

Its graph optimizer puts them in the place of others that it knows together, in forms
that would not suit here: LayerNorm by rsqrt, which rounds the last rows of a tensor
differently, and weights that are constants of the graph, which BERT-Base's load took 20
seconds longer for. So they are asked for by name. They have no gradients.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import kernels

from bert_extract.model.config import GELU_ERF, GELU_TANH

_LAYER_NORM = "_MklLayerNorm"
_DENSE = "_MklNativeFusedMatMul"
# What TensorFlow calls the activations that such a product computes itself.
ACTIVATIONS = {GELU_TANH: "GeluApproximate", GELU_ERF: "GeluExact", "relu": "Relu"}


def has_layer_norm() -> bool:
    """Whether `layer_norm` is there, on the CPU."""
    return _has_kernel(_LAYER_NORM)


def has_prepacked_dense() -> bool:
    """Whether `prepacked_dense` is there, on the CPU."""
    return _has_kernel(_DENSE)


def layer_norm(x: tf.Tensor, norm: tuple[tf.Tensor, tf.Tensor], epsilon: float) -> Any:
    """Normalises the last axis: Ba et al., "Layer Normalization" (2016).

    In two passes over each row instead of the nine of as many operations.

    Args:
      x: float32 [num_rows, size].
      norm: gamma and beta, float32 [size] each.
      epsilon: what is added to the variance.
    """
    return operation(_LAYER_NORM, [x, *norm], x.dtype, T=x.dtype, epsilon=epsilon)


def prepacked_dense(
    x: tf.Tensor, dense: tuple[tf.Tensor, tf.Tensor], activation: str = ""
) -> Any:
    """A dense product whose weights are laid out for the CPU once, and not every time.

    The operation keeps the weights of its first call for all others, in whatever graph
    it stands: so it must not stand in a function that is called with several.

    Args:
      x: [num_rows, num_inputs], cast to the kernel's dtype.
      dense: kernel and bias, [num_inputs, num_outputs] and [num_outputs], of one dtype.
      activation: one of `ACTIVATIONS`; none by default.

    Returns:
      [num_rows, num_outputs], of the kernel's dtype.
    """
    kernel, bias = dense
    fused_ops = ["BiasAdd", *([ACTIVATIONS[activation]] if activation else [])]
    return operation(
        _DENSE,
        [tf.cast(x, kernel.dtype), kernel, bias],
        kernel.dtype,
        T=kernel.dtype,
        is_filter_const=True,
        num_args=1,
        fused_ops=fused_ops,
        # By this name kernels are found that take and give plain tensors.
        _kernel="MklNameChangeOp",
    )


def operation(
    name: str, inputs: Sequence[tf.Tensor], dtype: tf.DType, **attributes: Any
) -> Any:
    """Adds an operation of one output to the graph that is being traced.

    Args:
      name: TensorFlow's.
      inputs: of the operation.
      dtype: the output's.
      **attributes: bools, ints, floats, strings, dtypes, and lists of the last two.
    """
    values = {key: _attribute(value) for key, value in attributes.items()}
    graph = tf.compat.v1.get_default_graph()
    (output,) = graph.create_op(
        name, inputs, [dtype], attrs=values, name=name.removeprefix("_")
    ).outputs
    return output


def _has_kernel(name: str) -> bool:
    found = kernels.get_registered_kernels_for_op(name).kernel
    return any(kernel.device_type == "CPU" for kernel in found)


def _attribute(value: Any) -> tf.compat.v1.AttrValue:
    if isinstance(value, list):
        is_text = all(isinstance(each, str) for each in value)
        field = "s" if is_text else "type"
        return tf.compat.v1.AttrValue(list={field: [_plain(each) for each in value]})
    # A bool is an int, too.
    fields = ((bool, "b"), (int, "i"), (float, "f"), (str, "s"), (tf.DType, "type"))
    field = next(field for kind, field in fields if isinstance(value, kind))
    return tf.compat.v1.AttrValue(**{field: _plain(value)})


def _plain(value: Any) -> Any:
    """As a protocol buffer takes it."""
    if isinstance(value, tf.DType):
        return value.as_datatype_enum
    return value.encode() if isinstance(value, str) else value
