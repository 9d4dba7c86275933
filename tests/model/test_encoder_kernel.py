"""Attention and gelu in C against the same in float64, and line against line."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from bert_extract.model import encoder_kernel
from bert_extract.model.config import GELU_ERF, GELU_TANH

Matrix = NDArray[np.float32]
FORMS = ("avx2", "avx512")
# Of hidden_size and heads: published ones, and sizes that fill no vector.
SIZES = ((768, 12), (384, 12), (128, 2), (32, 2), (60, 5), (21, 3), (7, 1), (130, 2))
# Around the widths of vectors, of panels and of blocks of rows.
LENGTHS = (2, 3, 5, 6, 7, 8, 15, 16, 17, 31, 32, 33, 48, 64, 65, 100, 128)

pytestmark = pytest.mark.skipif(
    not encoder_kernel.is_built(), reason="the kernel was not built"
)


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Iterator[str]:
    name: str = request.param
    if not encoder_kernel.choose_form(name):
        pytest.skip(f"this CPU has no {name}")
    yield name
    encoder_kernel.choose_form()


def matrices(num_rows: int, hidden_size: int, scale: float = 1.5) -> list[Matrix]:
    """Query, key and value."""
    rng = np.random.default_rng(num_rows)
    return [
        rng.normal(0, scale, (num_rows, hidden_size)).astype(np.float32)
        for _ in range(3)
    ]


def attended(
    inputs: Sequence[Any], lengths: Sequence[int], num_heads: int
) -> NDArray[Any]:
    @tf.function(autograph=False)
    def graph(
        query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, lengths: tf.Tensor
    ) -> tf.Tensor:
        return encoder_kernel.packed_attention(query, key, value, lengths, num_heads)

    found: NDArray[Any] = graph(
        *map(tf.constant, inputs), tf.constant(lengths, tf.int32)
    ).numpy()
    return found


def expected(
    inputs: Sequence[NDArray[Any]], lengths: Sequence[int], num_heads: int
) -> NDArray[np.float64]:
    """As Vaswani et al. write it, in float64."""
    query, key, value = (matrix.astype(np.float64) for matrix in inputs)
    context = np.zeros_like(query)
    size = query.shape[1] // num_heads
    start = 0
    for length in lengths:
        rows = slice(start, start + length)
        for number in range(num_heads):
            head = slice(number * size, (number + 1) * size)
            scores = query[rows, head] @ key[rows, head].T / np.sqrt(size)
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            weights /= weights.sum(axis=-1, keepdims=True)
            context[rows, head] = weights @ value[rows, head]
        start += length
    return context


@pytest.mark.parametrize(("hidden_size", "num_heads"), SIZES)
def test_it_is_what_the_paper_says(form: str, hidden_size: int, num_heads: int) -> None:
    inputs = matrices(sum(LENGTHS), hidden_size)
    found = attended(inputs, LENGTHS, num_heads)
    np.testing.assert_allclose(
        found, expected(inputs, LENGTHS, num_heads), rtol=0, atol=6e-6
    )


def test_a_line_of_512_tokens(form: str) -> None:
    inputs = matrices(512, 128)
    np.testing.assert_allclose(
        attended(inputs, [512], 2), expected(inputs, [512], 2), rtol=0, atol=6e-6
    )


def test_small_scores_have_all_digits(form: str) -> None:
    """Where exponentials are near 1 nothing but their own rounding is left."""
    inputs = matrices(64, 64, 0.3)
    np.testing.assert_allclose(
        attended(inputs, [64], 1), expected(inputs, [64], 1), rtol=0, atol=1e-7
    )


def test_scores_far_apart_leave_one_value(form: str) -> None:
    query = key = 100 * np.eye(4, 16, dtype=np.float32)
    value = matrices(4, 16)[2]
    np.testing.assert_array_equal(attended([query, key, value], [4], 1), value)


@pytest.mark.skipif(
    not all(map(encoder_kernel.choose_form, FORMS)), reason="a CPU with one form"
)
@pytest.mark.parametrize(("hidden_size", "num_heads"), SIZES)
def test_both_forms_give_the_same_bits(hidden_size: int, num_heads: int) -> None:
    inputs = matrices(sum(LENGTHS), hidden_size)
    found = []
    for name in FORMS:
        assert encoder_kernel.choose_form(name)
        found.append(attended(inputs, LENGTHS, num_heads).view(np.uint32))
    assert encoder_kernel.choose_form()
    np.testing.assert_array_equal(found[0], found[1])


def test_a_line_has_the_same_bits_in_any_company(form: str) -> None:
    inputs = matrices(sum(LENGTHS), 96)
    together = attended(inputs, LENGTHS, 3)
    start = 0
    for length in LENGTHS:
        own = slice(start, start + length)
        alone = attended([matrix[own] for matrix in inputs], [length], 3)
        np.testing.assert_array_equal(alone.view("u4"), together[own].view("u4"))
        start += length


def test_rows_behind_the_last_line_are_zeros(form: str) -> None:
    for dtype in (np.float32, tf.bfloat16.as_numpy_dtype):
        inputs = [matrix.astype(dtype) for matrix in matrices(12, 16)]
        found = attended(inputs, [4, 3], 2)
        assert found.shape == (12, 16)
        assert found[:7].astype(np.float32).all()
        assert not found[7:].astype(np.float32).any()


def test_no_lines_are_zeros(form: str) -> None:
    assert not attended(matrices(3, 16), [], 2).any()


@pytest.mark.parametrize(("hidden_size", "num_heads"), SIZES)
def test_bfloat16_is_rounded_once(form: str, hidden_size: int, num_heads: int) -> None:
    bfloat16 = tf.bfloat16.as_numpy_dtype
    inputs = [each.astype(bfloat16) for each in matrices(sum(LENGTHS), hidden_size)]
    found = attended(inputs, LENGTHS, num_heads)
    assert found.dtype == bfloat16
    as_float32 = attended([x.astype(np.float32) for x in inputs], LENGTHS, num_heads)
    np.testing.assert_array_equal(found, as_float32.astype(bfloat16))


@pytest.mark.parametrize("dtype", [np.float32, tf.bfloat16.as_numpy_dtype])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 1, 2], ids=["query", "key", "value"])
def test_what_is_no_number_stays_so_in_its_line(
    form: str, place: int, value: float, dtype: Any
) -> None:
    """Weights that are broken must be seen: see `record.check_finite`."""
    inputs = [matrix.astype(dtype) for matrix in matrices(20, 16)]
    inputs[place][7, 3] = value
    found = attended(inputs, [5, 15], 2).astype(np.float32)
    assert np.isfinite(found[:5]).all()
    assert not np.isfinite(found[5:, :8]).all()
    assert np.isfinite(found[5:, 8:]).all()


@pytest.mark.parametrize(
    ("shapes", "lengths", "num_heads", "message"),
    [
        ([(4, 8), (4, 8), (5, 8)], [4], 2, "matrices of one shape"),
        ([(4, 8), (4, 6), (4, 8)], [4], 2, "matrices of one shape"),
        ([(4, 8), (32,), (4, 8)], [4], 2, "matrices of one shape"),
        ([(4, 8)] * 3, [4], 3, "multiple of num_heads"),
        ([(4, 8)] * 3, [4], 0, "multiple of num_heads"),
        ([(4, 8)] * 3, [[4]], 2, "lengths must be a vector"),
        ([(4, 8)] * 3, [3, 2], 2, "sum of lengths exceeds"),
        ([(4, 8)] * 3, [5, -1], 2, "lengths must be positive"),
        ([(4, 8)] * 3, [2**31 - 1] * 3, 2, "sum of lengths exceeds"),
    ],
)
def test_what_does_not_fit_is_refused(
    shapes: list[tuple[int, ...]], lengths: list[Any], num_heads: int, message: str
) -> None:
    inputs = [np.ones(shape, np.float32) for shape in shapes]
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        attended(inputs, lengths, num_heads)


def test_the_shape_is_known_while_the_graph_is_traced() -> None:
    shapes: list[tf.TensorShape] = []

    @tf.function(
        input_signature=[
            *[tf.TensorSpec([None, 16], tf.float32)] * 3,
            tf.TensorSpec([None], tf.int32),
        ],
        autograph=False,
    )
    def graph(
        query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, lengths: tf.Tensor
    ) -> tf.Tensor:
        context = encoder_kernel.packed_attention(query, key, value, lengths, 2)
        shapes.append(context.shape)
        return context

    graph.get_concrete_function()
    assert shapes[0].as_list() == [None, 16]


# ------------------------------------------------------------------------- gelu


def activated(x: Any, hidden_act: str) -> Matrix:
    graph = tf.function(
        lambda x: encoder_kernel.gelu(x + 0.0, hidden_act), autograph=False
    )
    found: Matrix = graph(tf.constant(x)).numpy()
    return found


def exact_gelu(x: Matrix, hidden_act: str) -> NDArray[np.float64]:
    wide = x.astype(np.float64)
    if hidden_act == GELU_TANH:
        cube = 0.044715 * wide**3
        tanh: NDArray[np.float64] = np.tanh(math.sqrt(2 / math.pi) * (wide + cube))
        return wide / 2 * (1 + tanh)
    phi = [math.erfc(-value / math.sqrt(2)) / 2 for value in wide.ravel().tolist()]
    exact: NDArray[np.float64] = wide * np.reshape(phi, wide.shape)
    return exact


@pytest.mark.parametrize("hidden_act", [GELU_TANH, GELU_ERF])
def test_gelu_is_within_four_roundings(form: str, hidden_act: str) -> None:
    x = np.linspace(-20, 20, 100_003, dtype=np.float32)[np.newaxis]
    found, exact = activated(x, hidden_act), exact_gelu(x, hidden_act)
    # Half a unit in the last place of x is 6e-8 of it, at most.
    assert (np.abs(found - exact) <= 2.2e-7 * np.abs(x)).all()


@pytest.mark.parametrize("hidden_act", [GELU_TANH, GELU_ERF])
def test_gelu_of_great_and_small_numbers(form: str, hidden_act: str) -> None:
    x = np.array([[0.0, 1e-30, -1e-30, 100, -100, 1e20, -1e20, np.inf]], np.float32)
    found = activated(x, hidden_act)
    expected = [0.0, 0.5e-30, -0.5e-30, 100, 0, 1e20, 0, np.inf]
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)
    assert np.isnan(activated(np.full((1, 3), np.nan, np.float32), hidden_act)).all()


@pytest.mark.parametrize("hidden_act", [GELU_TANH, GELU_ERF])
def test_a_number_has_one_gelu_wherever_it_stands(hidden_act: str) -> None:
    x = matrices(1, 100, 3)[0]
    expected = activated(x, hidden_act)
    for name in FORMS:
        if encoder_kernel.choose_form(name):
            for start in range(0, 100, 3):
                for end in (start + 1, start + 7, 100):
                    np.testing.assert_array_equal(
                        activated(x[:, start:end], hidden_act), expected[:, start:end]
                    )
    encoder_kernel.choose_form()


def test_gelu_leaves_alone_what_others_read() -> None:
    @tf.function(autograph=False)
    def graph(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        moved = x + 1.0
        return encoder_kernel.gelu(moved, GELU_TANH), moved

    x = matrices(4, 16)[0]
    found, moved = graph(tf.constant(x))
    np.testing.assert_array_equal(moved, x + np.float32(1))
    np.testing.assert_array_equal(found, activated(x + np.float32(1), GELU_TANH))


def test_gelu_of_what_is_no_matrix_is_refused() -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match="x must be a matrix"):
        activated(np.ones(3, np.float32), GELU_ERF)
