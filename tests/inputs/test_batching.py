"""Stretches, lengths and batches: the only place that pads."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from bert_extract.errors import InputError
from bert_extract.inputs.batching import (
    GROUP_SIZE,
    groups,
    pack,
    padded_length,
    plan_batches,
    plan_packed_batches,
    stretches,
    to_batch,
)
from bert_extract.inputs.features import Features, LinePart, TakenTokens

NO_IDS = np.empty(0, np.int32)


def line(num_tokens: int, unique_id: int = 0) -> Features:
    input_ids = np.arange(1, num_tokens + 1, dtype=np.int32)
    token_type_ids = (input_ids > 2).astype(np.int32)
    part = LinePart(TakenTokens(0, num_tokens))
    return Features(unique_id, input_ids, token_type_ids, False, False, part)


def parts(
    nums: Sequence[int], first_id: int = 0, num_entries: int = 0
) -> Iterator[Features]:
    """Lines of so many parts, each with so many entries."""
    for unique_id, num_parts in enumerate(nums, first_id):
        for number in range(num_parts):
            part = LinePart(
                TakenTokens(0, num_entries),
                number=number,
                is_last=number == num_parts - 1,
            )
            yield Features(unique_id, NO_IDS, NO_IDS, False, False, part)


@pytest.mark.parametrize(
    ("num_tokens", "length"),
    [
        *((2, 2), (3, 3), (19, 19), (20, 20), (21, 22), (22, 22), (39, 40), (40, 40)),
        *((41, 44), (79, 80), (81, 88), (159, 160), (161, 176), (497, 512)),
    ],
)
def test_short_lines_are_not_padded_and_long_ones_hardly(
    num_tokens: int, length: int
) -> None:
    assert padded_length(num_tokens) == length


def test_padding_is_never_more_than_nine_in_a_hundred() -> None:
    for num_tokens in range(2, 513):
        padded = padded_length(num_tokens)
        assert num_tokens <= padded <= num_tokens * 1.094
        assert padded_length(padded) == padded


def test_a_device_can_want_multiples() -> None:
    assert [padded_length(n, 8) for n in (2, 8, 9, 33, 130, 161)] == [
        *(8, 8, 16, 40, 136, 176)
    ]


def test_stretches_end_after_whole_groups_and_the_first_is_a_short_one() -> None:
    lines = [line(10, unique_id=i) for i in range(50)]
    cut = list(stretches(lines, max_tokens=100))
    sizes = [[len(group) for group in stretch] for stretch in cut]
    assert sizes == [[8], [8, 8], [8, 8], [8, 2]]
    ids = [part.unique_id for stretch in cut for group in stretch for part in group]
    assert ids == [*range(50)]


def test_a_pause_ends_group_and_stretch() -> None:
    lines = [line(10, unique_id=i) for i in range(30)]
    stream = [None, *lines[:1], None, *lines[1:12], None, None, *lines[12:], None]
    cut = list(stretches(stream, max_tokens=100))
    sizes = [[len(group) for group in stretch] for stretch in cut]
    assert sizes == [[1], [8, 3], [8, 8], [2]]
    ids = [part.unique_id for stretch in cut for group in stretch for part in group]
    assert ids == [*range(30)]


def test_groups_end_with_a_line_and_within_a_long_one() -> None:
    # Lines of 1, 20, 3, 1, 1, 1, 1, 1 and 40 parts.
    cut = list(groups(parts([1, 20, 3, 1, 1, 1, 1, 1, 40])))
    assert [len(group) for group in cut] == [16, 8, 16, 16, 13]
    ends = [(group[-1].unique_id, group[-1].is_last) for group in cut]
    assert ends == [(1, False), (2, True), (8, False), (8, False), (8, True)]


def test_groups_within_a_long_line_have_a_bounded_number_of_entries() -> None:
    # Lines of 1, 12, 3, 1, 1, 1, 1 and 1 parts: with a line only eight parts count.
    cut = list(groups(parts([1, 12, 3, 1, 1, 1, 1, 1], num_entries=1024)))
    assert [len(group) for group in cut] == [4, 4, 4, 8, 1]
    ends = [(group[-1].unique_id, group[-1].is_last) for group in cut]
    assert ends == [(1, False), (1, False), (1, False), (6, True), (7, True)]
    cut = list(groups(parts([40], num_entries=500)))
    assert [len(group) for group in cut] == [9, 9, 9, 9, 4]


@pytest.mark.parametrize("num_entries", [0, 500, 1024])
@pytest.mark.parametrize("seed", range(3))
def test_after_a_group_that_ends_with_a_line_it_is_like_a_beginning(
    seed: int, num_entries: int
) -> None:
    rng = np.random.default_rng(seed)
    nums = rng.choice([1, 1, 1, 2, 7, 30], 200).tolist()
    whole = list(groups(parts(nums, 0, num_entries)))
    for number, group in enumerate(whole):
        if group[-1].is_last:
            done = group[-1].unique_id + 1
            rest = groups(parts(nums[done:], done, num_entries))
            assert whole[number + 1 :] == list(rest)


@pytest.mark.parametrize(
    ("num_lines", "sizes"),
    [(40, [40]), (88, [72, 16]), (400, [200, 152, 48]), (480, [200, 216, 64])],
)
def test_of_the_last_stretch_a_quarter_is_apart(
    num_lines: int, sizes: list[int]
) -> None:
    cut = stretches([line(1)] * num_lines, max_tokens=400)
    assert [sum(map(len, stretch)) for stretch in cut] == sizes


def test_entries_without_a_token_fill_a_stretch_too() -> None:
    zeros = line(0)._replace(part=LinePart(TakenTokens(0, 1000)))
    sizes = [len(stretch) for stretch in stretches([zeros] * 64, max_tokens=16_000)]
    assert sizes == [1, 2, 2, 2, 1]


def test_a_stretch_of_blank_lines_is_bounded() -> None:
    sizes = [len(stretch) for stretch in stretches([line(2)] * 40_000, 1 << 30)]
    assert sizes == [2048, 2048, 904]  # groups of eight


def test_stretches_are_cut_lazily() -> None:
    taken = 0

    def lines() -> Iterator[Features]:
        nonlocal taken
        while True:
            taken += 1
            yield line(10)

    cut = stretches(lines(), max_tokens=100)
    next(cut)
    assert taken == 8
    next(cut)
    assert taken == 24


@pytest.mark.parametrize(("num_read", "sizes"), [(0, []), (7, []), (20, [16, 0])])
def test_whole_groups_before_an_unreadable_line_are_given(
    num_read: int, sizes: list[int]
) -> None:
    def lines() -> Iterator[Features]:
        for _ in range(num_read):
            yield line(4)
        raise InputError("line is not UTF-8")

    seen: list[int] = []
    cut = stretches(lines(), max_tokens=1 << 20)
    with pytest.raises(InputError, match="line is not UTF-8"):
        seen.extend(sum(map(len, stretch)) for stretch in cut)
    assert seen == [size for size in sizes if size]
    assert all(size % GROUP_SIZE == 0 for size in seen)


def test_lines_of_one_length_share_a_batch_and_long_ones_come_first() -> None:
    assert plan_batches([3, 5, 3, 9, 5, 3, 3], max_slots=9) == [
        [3],
        [1],
        [4],
        [0, 2, 5],
        [6],
    ]


def test_what_has_no_token_is_in_no_batch() -> None:
    assert plan_batches([0, 3, 0], max_slots=9) == [[1]]
    assert plan_batches([0], max_slots=9) == []


def test_a_line_longer_than_a_batch_is_one() -> None:
    assert plan_batches([100, 100], max_slots=64) == [[0], [1]]


@pytest.mark.parametrize("seed", range(5))
def test_every_line_is_in_one_batch_that_is_not_too_large(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 129, 500).tolist()
    batches = plan_batches(lengths, max_slots=512)
    assert sorted(place for batch in batches for place in batch) == [*range(500)]
    for batch in batches:
        assert len({lengths[place] for place in batch}) == 1
        assert len(batch) * lengths[batch[0]] <= 512


@pytest.mark.parametrize(
    ("max_slots", "least_slots", "planned"),
    [
        (8, 1, [[9], [7], [6], [6], [4, 2], [4, 4]]),
        (16, 1, [[9, 4], [7, 6], [6, 4, 4, 2]]),
        (21, 1, [[9, 7, 4], [6, 6, 4, 4], [2]]),
        (8, 16, [[9, 7], [6, 6, 4, 4, 4, 2]]),  # the last ones are no batch of 16
        (8, 64, [[9, 7, 6, 6, 4, 4, 4, 2]]),  # no batch of fewer than 64
    ],
)
def test_lines_of_any_lengths_fill_packed_batches(
    max_slots: int, least_slots: int, planned: list[list[int]]
) -> None:
    lengths = [4, 7, 4, 6, 4, 2, 6, 9]
    batches = plan_packed_batches(lengths, max_slots, least_slots)
    assert [[lengths[place] for place in batch] for batch in batches] == planned
    assert sorted(itertools.chain(*batches)) == [*range(8)]


@pytest.mark.parametrize("least_slots", [1, 12, 128])
@pytest.mark.parametrize("seed", range(5))
def test_packed_batches_are_bounded_and_nearly_all_of_one_size(
    seed: int, least_slots: int
) -> None:
    rng = np.random.default_rng(seed)
    lengths = [0, *rng.integers(2, 129, 300).tolist()]
    batches = plan_packed_batches(lengths, 512, least_slots)
    assert sorted(itertools.chain(*batches)) == [*range(1, 301)]
    sizes = [sum(lengths[place] for place in batch) for batch in batches]
    assert max(sizes[:-1]) <= 512
    assert sizes[-1] <= 512 + least_slots
    assert len(batches) <= -(-sum(lengths) // 512) + 1
    assert sizes.count(max(sizes[:-1])) >= len(sizes) * 2 / 3
    for batch in batches:
        own = [lengths[place] for place in batch]
        assert own == sorted(own, reverse=True)
    firsts = [lengths[batch[0]] for batch in batches]
    assert firsts == sorted(firsts, reverse=True)


def test_what_has_no_token_is_in_no_packed_batch() -> None:
    assert plan_packed_batches([0, 3, 0], max_slots=9) == [[1]]
    assert plan_packed_batches([0], max_slots=9) == []


def test_a_line_longer_than_a_packed_batch_is_one() -> None:
    assert plan_packed_batches([100, 3, 100], max_slots=64) == [[0], [2], [1]]


def test_packed_lines_stand_one_behind_the_other() -> None:
    packed = pack([line(3), line(4), line(2)])
    assert packed.input_ids.tolist() == [1, 2, 3, 1, 2, 3, 4, 1, 2]
    assert packed.token_type_ids.tolist() == [0, 0, 1, 0, 0, 1, 1, 0, 0]
    assert packed.positions.tolist() == [0, 1, 2, 0, 1, 2, 3, 0, 1]
    assert packed.lengths.tolist() == [3, 4, 2]
    for field in dataclasses.fields(packed):
        assert getattr(packed, field.name).dtype == np.int32


def test_padding_is_zeros_and_the_mask_says_so() -> None:
    batch = to_batch([line(4), line(2)], seq_length=5)
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 0], [1, 2, 0, 0, 0]]
    assert batch.input_mask.tolist() == [[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]]
    assert batch.token_type_ids.tolist() == [[0, 0, 1, 1, 0], [0, 0, 0, 0, 0]]
    assert batch.input_ids.dtype == batch.input_mask.dtype == np.int32
    assert batch.token_type_ids.dtype == np.int32
