"""Bytes of a file -> tensors on the CPU, without a copy that could be spared."""

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from bert_extract.checkpoints.base import Shape

# A tensor's memory begins at a multiple of it, as TensorFlow's own does.
_ALIGNMENT = 64
# Rows that are transposed at once: what they are read from and written to stays in the
# fastest cache. tf.transpose took twice as long, NumPy's plain assignment eight times.
_TRANSPOSED_ROWS = 8


def aligned_bytes(num_bytes: int) -> NDArray[np.uint8]:
    """Memory that a tensor can be made of: uint8 [num_bytes], uninitialized."""
    memory = np.empty(num_bytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + num_bytes]


def to_tensor(values: NDArray[np.uint8], shape: Shape, dtype: tf.DType) -> tf.Tensor:
    """Makes a tensor of what `aligned_bytes` gave, which is TensorFlow's from then on.

    Copying a NumPy array into a tensor would cost the time of the read once more, and
    NumPy has no bfloat16; a bitcast does not touch the bytes.
    """
    tensor = tf.experimental.dlpack.from_dlpack(values.__dlpack__())
    return tf.bitcast(tf.reshape(tensor, (*shape, dtype.size)), dtype)


def transposed(matrix: tf.Tensor) -> tf.Tensor:
    """[m, n] -> [n, m], both on the CPU."""
    rows = np.asarray(matrix)
    shape = rows.shape[::-1]
    values = aligned_bytes(rows.nbytes)
    columns = values.view(rows.dtype).reshape(shape)
    for begin in range(0, len(rows), _TRANSPOSED_ROWS):
        end = begin + _TRANSPOSED_ROWS
        columns[:, begin:end] = rows[begin:end].T
    return to_tensor(values, shape, matrix.dtype)
