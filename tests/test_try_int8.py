"""scripts/try_int8.py: factors in eight bits, and what is done about the error."""

import numpy as np
import pytest

from support.reference_model import Array
from try_int8 import (
    PARTS,
    WAYS,
    Calibration,
    Way,
    part_of,
    product_in,
    rounded_kernel,
    rounded_rows,
)

NAME = "bert/encoder/layer_0/intermediate/dense/kernel"


def test_a_row_is_rounded_to_steps_of_a_127th_of_its_largest_value() -> None:
    rows = np.array([[127.0, 1.4, -63.6, 0.5], [0.0, 0.0, 0.0, 0.0]])
    assert rounded_rows(rows).tolist() == [[127.0, 1.0, -64.0, 0.0], [0.0] * 4]
    in_halves = rounded_rows(rows, num_pieces=2)
    assert in_halves[0, :2].tolist() == [127.0, 1.0]
    np.testing.assert_allclose(in_halves[0, 2:], [-63.6, 0.5], atol=63.6 / 254)
    assert in_halves[0, 3] == pytest.approx(63.6 / 127)


def test_a_kernel_has_a_range_for_each_output() -> None:
    kernel = np.array([[127.0, 1.27], [1.4, 0.014]])
    np.testing.assert_allclose(rounded_kernel(kernel), [[127.0, 1.27], [1.0, 0.01]])


def test_each_kernel_of_a_layer_is_in_one_part() -> None:
    scope = "bert/encoder/layer_3"
    kernels = {
        f"{scope}/attention/self/{name}/kernel": "query, key and value"
        for name in ("query", "key", "value")
    }
    kernels[f"{scope}/attention/output/dense/kernel"] = "attention's output"
    kernels[f"{scope}/intermediate/dense/kernel"] = "intermediate"
    kernels[f"{scope}/output/dense/kernel"] = "output"
    assert {name: part_of(name) for name in kernels} == kernels


def with_a_wide_column() -> tuple[Array, Array, Calibration]:
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(30, 64)), rng.normal(size=(64, 16))
    x[:, 5] *= 50.0
    calibration = Calibration()
    exact = calibration.watch(x, kernel, NAME)
    np.testing.assert_array_equal(exact, x @ kernel)
    return x, kernel, calibration


def error_of(way: Way) -> float:
    x, kernel, calibration = with_a_wide_column()
    product = product_in(way, calibration)
    # The second call takes what the first has prepared.
    product(x, kernel, NAME)
    return float(np.abs(product(x, kernel, NAME) - x @ kernel).mean())


def test_what_is_not_in_int8_is_exact() -> None:
    assert error_of(Way("all of it", kept=tuple(PARTS))) == 0.0


@pytest.mark.parametrize(
    "way",
    [
        Way("in halves", num_pieces=2),
        Way("apart", share_apart=1 / 64),
        Way("evened out", evens_out=True),
    ],
    ids=lambda way: way.title,
)
def test_each_remedy_lessens_the_error_of_a_wide_column(way: Way) -> None:
    plain = error_of(Way("plain"))
    assert 0.1 < plain < 2.0
    assert 0.0 < error_of(way) < 0.8 * plain


def test_a_line_does_not_depend_on_its_neighbours() -> None:
    x, kernel, calibration = with_a_wide_column()
    for way in WAYS:
        together = product_in(way, calibration)(x, kernel, NAME)
        alone = product_in(way, calibration)(x[3:4], kernel, NAME)
        np.testing.assert_allclose(alone, together[3:4], rtol=1e-12, atol=1e-9)
