"""Bytes become tensors as they lie there."""

import numpy as np
import pytest
import tensorflow as tf

from bert_extract.checkpoints.tensors import aligned_bytes, to_tensor, transposed


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (8, 8), (9, 130), (64, 17), (0, 4)])
def test_transposed_is_what_tensorflow_makes_of_it(
    shape: tuple[int, int], dtype: str
) -> None:
    matrix = tf.cast(tf.random.stateless_normal(shape, (1, 2)), dtype)
    found = transposed(matrix)
    assert found.dtype == matrix.dtype
    assert found.shape == shape[::-1]
    expected = tf.transpose(matrix)
    assert tf.cast(found, tf.float32).numpy().tobytes() == (
        tf.cast(expected, tf.float32).numpy().tobytes()
    )


def test_a_tensor_takes_the_memory_over() -> None:
    values = aligned_bytes(48)
    assert values.ctypes.data % 64 == 0
    values.view(np.float32)[:] = np.arange(12)
    tensor = to_tensor(values, (3, 4), tf.float32)
    assert tensor.numpy().tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert np.asarray(tensor).ctypes.data == values.ctypes.data
