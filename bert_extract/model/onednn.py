"""oneDNN's operations that TensorFlow has, but no function for.

Its graph optimizer puts them in the place of others that it knows together, in forms
that would not suit here: LayerNorm by rsqrt, which rounds the last rows of a tensor
differently, and weights that are constants of the graph, which BERT-Base's load took 20
seconds longer for. So they are asked for by name. They have no gradients.
"""

from typing import Any

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2
from tensorflow.python.framework import kernels

from bert_extract.model.config import GELU_ERF, GELU_TANH

_LAYER_NORM = "_MklLayerNorm"
_DENSE = "_MklNativeFusedMatMul"
# What TensorFlow calls the activations that such a product computes itself.
ACTIVATIONS = {GELU_TANH: "GeluApproximate", GELU_ERF: "GeluExact", "relu": "Relu"}


def has_layer_norm() -> bool:
    """Whether `layer_norm` is there, on the CPU."""
    return _has_kernel(_LAYER_NORM)


def has_packed_dense() -> bool:
    """Whether `packed_dense` is there, on the CPU."""
    return _has_kernel(_DENSE)


def layer_norm(x: tf.Tensor, norm: tuple[tf.Tensor, tf.Tensor], epsilon: float) -> Any:
    """Normalises the last axis: Ba et al., "Layer Normalization" (2016).

    In two passes over each row instead of the nine of as many operations.

    Args:
      x: float32 [num_rows, size].
      norm: gamma and beta, float32 [size] each.
      epsilon: what is added to the variance.
    """
    return _operation(_LAYER_NORM, [x, *norm], x.dtype, epsilon=epsilon)


def packed_dense(
    x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, activation: str = ""
) -> Any:
    """A dense product whose weights are laid out for the CPU once, and not every time.

    The operation keeps the weights of its first call for all others, in whatever graph
    it stands: so it must not stand in a function that is called with several.

    Args:
      x: [num_rows, num_inputs], cast to the kernel's dtype.
      kernel: [num_inputs, num_outputs].
      bias: [num_outputs], of the same dtype.
      activation: one of `ACTIVATIONS`; none by default.

    Returns:
      [num_rows, num_outputs], of the kernel's dtype.
    """
    fused_ops = ["BiasAdd", *([ACTIVATIONS[activation]] if activation else [])]
    return _operation(
        _DENSE,
        [tf.cast(x, kernel.dtype), kernel, bias],
        kernel.dtype,
        is_filter_const=True,
        num_args=1,
        fused_ops=fused_ops,
        # By this name kernels are found that take and give plain tensors.
        _kernel="MklNameChangeOp",
    )


def _has_kernel(name: str) -> bool:
    found = kernels.get_registered_kernels_for_op(name).kernel
    return any(kernel.device_type == "CPU" for kernel in found)


def _operation(
    name: str, inputs: list[tf.Tensor], dtype: tf.DType, **attributes: Any
) -> Any:
    """Adds an operation of one output to the graph that is being traced."""
    values = {key: _attribute(value) for key, value in attributes.items()}
    values["T"] = attr_value_pb2.AttrValue(type=dtype.as_datatype_enum)
    graph = tf.compat.v1.get_default_graph()
    operation = graph.create_op(
        name, inputs, [dtype], attrs=values, name=name.removeprefix("_")
    )
    return operation.outputs[0]


def _attribute(value: Any) -> attr_value_pb2.AttrValue:
    if isinstance(value, bool):
        return attr_value_pb2.AttrValue(b=value)
    if isinstance(value, int):
        return attr_value_pb2.AttrValue(i=value)
    if isinstance(value, float):
        return attr_value_pb2.AttrValue(f=value)
    if isinstance(value, str):
        return attr_value_pb2.AttrValue(s=value.encode())
    strings = attr_value_pb2.AttrValue.ListValue(s=[text.encode() for text in value])
    return attr_value_pb2.AttrValue(list=strings)
