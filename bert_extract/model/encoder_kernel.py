"""Operations of our own for the CPU: attention of lines of any lengths, and gelu.

Compiled from `_encoder_kernel.c`, which knows TensorFlow by its C API alone. Where it
was not built, or TensorFlow is another one, the model computes with TensorFlow's
operations, one padded length a batch.
"""

import ctypes
import functools
import importlib.util
import os
from typing import Any

import tensorflow as tf

from bert_extract.model.config import GELU_ERF
from bert_extract.model.onednn import operation

_ATTENTION = "BertExtractAttention"
_GELU = "BertExtractGelu"
_LIBRARY = "libtensorflow_framework.so.2"
# In the order of `struct api` in the C file.
_FUNCTIONS = (
    "TF_NewStatus",
    "TF_DeleteStatus",
    "TF_SetStatus",
    "TF_GetCode",
    "TF_NewOpDefinitionBuilder",
    "TF_OpDefinitionBuilderAddAttr",
    "TF_OpDefinitionBuilderAddInput",
    "TF_OpDefinitionBuilderAddOutput",
    "TF_OpDefinitionBuilderSetShapeInferenceFunction",
    "TF_RegisterOpDefinition",
    "TF_NewKernelBuilder",
    "TF_RegisterKernelBuilder",
    "TF_OpKernelConstruction_GetAttrInt32",
    "TF_OpKernelConstruction_Failure",
    "TF_OpKernelContext_Failure",
    "TF_GetInput",
    "TF_AllocateOutput",
    "TF_ForwardInputOrAllocateOutput",
    "TF_TensorType",
    "TF_NumDims",
    "TF_Dim",
    "TF_TensorData",
    "TF_DeleteTensor",
    "TF_NewShapeHandle",
    "TF_DeleteShapeHandle",
    "TF_ShapeInferenceContextGetInput",
    "TF_ShapeInferenceContextSetOutput",
)


def is_built() -> bool:
    """Whether the operations are there."""
    return _kernel() is not None


def packed_attention(
    query: tf.Tensor,
    key: tf.Tensor,
    value: tf.Tensor,
    lengths: tf.Tensor,
    num_heads: int,
) -> Any:
    """Multi-head self-attention of each line with itself: Vaswani et al. (2017).

    Sums and the softmax are float32, and rounded once if the inputs are bfloat16. A
    line's context has the same bits whatever lines are beside it, and under AVX2 and
    AVX-512.

    Args:
      query: float32 or bfloat16 [R, H], the lines' tokens one behind the other.
      key: the same.
      value: the same.
      lengths: int32 [num_lines], of each line; their sum is at most R.
      num_heads: divides H.

    Returns:
      [R, H] of the inputs' dtype; rows behind the last line are zeros.
    """
    assert is_built()
    return operation(
        _ATTENTION,
        [query, key, value, lengths],
        query.dtype,
        T=query.dtype,
        num_heads=num_heads,
    )


def gelu(x: tf.Tensor, hidden_act: str) -> Any:
    """Gaussian error linear unit in one pass: Hendrycks and Gimpel (2016).

    Args:
      x: float32 [num_rows, size].
      hidden_act: `GELU_TANH` or `GELU_ERF`.

    Returns:
      The same shape, within 2.2e-7 of x: nearer than TensorFlow's operations are.
    """
    assert is_built()
    return operation(_GELU, [x], x.dtype, is_erf=int(hidden_act == GELU_ERF))


def choose_form(name: str = "") -> bool:
    """Takes the form for "avx2" or "avx512" from now on; by default the CPU's best.

    Returns:
      Whether the CPU has it.
    """
    kernel = _kernel()
    return kernel is not None and bool(
        kernel.bert_extract_choose_form(name.encode("ascii"))
    )


@functools.cache
def _kernel() -> ctypes.CDLL | None:
    """Loads the kernel and makes its operation known; None where that cannot be."""
    spec = importlib.util.find_spec("bert_extract.model._encoder_kernel")
    if spec is None or spec.origin is None:
        return None
    try:
        # Not `import`: it is no Python module.
        kernel = ctypes.CDLL(spec.origin)
        # The one that is in the process already.
        tensorflow = ctypes.CDLL(os.path.join(tf.sysconfig.get_lib(), _LIBRARY))
        functions = [
            ctypes.cast(getattr(tensorflow, name), ctypes.c_void_p).value
            for name in _FUNCTIONS
        ]
    except (OSError, AttributeError):  # built for another machine; another TensorFlow
        return None
    if not kernel.bert_extract_choose_form(b""):
        return None
    api = (ctypes.c_void_p * len(functions))(*functions)
    return kernel if kernel.bert_extract_register(api) else None
