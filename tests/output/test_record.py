"""What a user gets of a line has no word about its parts."""

import dataclasses

import numpy as np
import pytest

from bert_extract.output.record import Record, join_records
from support.nasty_records import make_record, parts_of


def test_a_record_has_only_what_a_user_wants() -> None:
    assert [field.name for field in dataclasses.fields(Record)] == [
        *("linex_index", "tokens", "indexes", "layers", "texts", "offsets")
    ]


def test_the_vectors_of_a_record_are_one_array() -> None:
    layers = tuple(np.full((2, 5), i, np.float32) for i in range(3))
    vectors = Record(0, ("a", "b"), (0, 1, 2), layers).vectors
    assert vectors.shape == (3, 2, 5)
    assert vectors.dtype == np.float32
    assert vectors[:, 1, 4].tolist() == [0.0, 1.0, 2.0]
    assert Record(0, (), (), ()).vectors.shape == (0, 0, 0)


@pytest.mark.parametrize("is_annotated", [False, True])
@pytest.mark.parametrize("cuts", [[], [1], [0, 0, 3], [7, 7]])
def test_the_parts_of_a_record_are_the_record(
    cuts: list[int], is_annotated: bool
) -> None:
    record = make_record(4, 7, is_annotated=is_annotated)
    parts = parts_of(record, cuts)
    assert len(parts) == len(cuts) + 1
    assert join_records([part.record for part in parts]) == record
