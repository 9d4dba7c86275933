"""Features -> Batch: stretches sorted by length; the only place that pads.

Where the model packs lines, those of a batch stand one behind the other, whatever their
lengths. Elsewhere lines of one padded length share a batch, and the padded length is a
function of the line's own length: so what the model computes for a line does not depend
on which other lines stand near it.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from bert_extract.errors import BertExtractError
from bert_extract.inputs.features import Features

# A group ends with a line when it has so many parts (a line is one part, if it is not
# long), and within a long line when it has twice as many, or so many entries. So
# groups, and what is made of them (the members of a compressed file), depend on nothing
# but the lines; and after a group that ends with a line it is as if the input began
# there.
GROUP_SIZE = 8
_MAX_GROUP_SIZE = 2 * GROUP_SIZE
_MAX_GROUP_ENTRIES = 4096
# The share of a full stretch from which on a last one is divided.
_LEAST_DIVIDED = 1 / 8
# Blank lines are two tokens each: a stretch of tokens alone could hold too many lines.
_MAX_STRETCH_LINES = 16384


@dataclass(frozen=True, slots=True)
class Batch:
    """What the model gets: lines of one padded length, alone or with other batches."""

    input_ids: NDArray[np.int32]  # [batch_size, seq_length]
    input_mask: NDArray[np.int32]  # [batch_size, seq_length], 1 for a token
    token_type_ids: NDArray[np.int32]  # [batch_size, seq_length]


def padded_length(num_tokens: int, multiple: int = 1) -> int:
    """The length to which a line is padded: a function of its own length alone.

    Short lines are not padded at all. Longer ones are rounded up to a multiple of 2
    (above 20), 4 (above 40), 8 (above 80) or 16 (above 160), on average 1 to 3 % more
    on real text, so that a stretch holds enough lines of each length to fill batches:
    a batch of its own costs as much as 10 to 60 tokens of padding.

    Args:
      num_tokens: the line's length in tokens.
      multiple: what the device wants lengths to be a multiple of.
    """
    for above, step in ((160, 16), (80, 8), (40, 4), (20, 2)):
        if num_tokens > above:
            multiple = max(multiple, step)
            break
    return -(-num_tokens // multiple) * multiple


def groups(features: Iterable[Features | None]) -> Iterator[list[Features]]:
    """Cuts a stream into groups of consecutive parts, which are encoded together.

    Where the stream has None, a pause, a group ends, and an empty one follows it.

    If a line cannot be read, the groups before it that are whole are still given, and
    then the error is raised.
    """
    for group, _ in _sized_groups(features):
        yield group


def _sized_groups(
    features: Iterable[Features | None],
) -> Iterator[tuple[list[Features], int]]:
    """Gives the groups, and of each the sum of its parts' sizes."""
    group: list[Features] = []
    size = 0
    for part in features:
        if part is None:
            if group:
                yield group, size
            yield [], 0
            group, size = [], 0
            continue
        group.append(part)
        size += part.size
        is_last = part.part.is_last
        is_full = len(group) >= (GROUP_SIZE if is_last else _MAX_GROUP_SIZE)
        if is_full or (size >= _MAX_GROUP_ENTRIES and not is_last):
            yield group, size
            group, size = [], 0
    if group:
        yield group, size


def stretches(
    features: Iterable[Features | None], max_tokens: int
) -> Iterator[list[list[Features]]]:
    """Cuts a stream into stretches of whole groups, in order.

    A stretch has about `max_tokens` tokens. The first has half of them, and the last is
    divided, three quarters and one: what is written when all is computed is what nobody
    can do meanwhile. An entry for which the model computes nothing counts like a token:
    its zeros have to be written, too. Where the stream has None, which is a pause, a
    stretch ends.

    If a line cannot be read, what came before in whole groups is still given, and then
    the error is raised.
    """
    stretch: list[list[Features]] = []
    num_tokens = num_parts = 0
    most = max_tokens // 2
    try:
        for group, size in _sized_groups(features):
            is_pause = not group
            if not is_pause:
                stretch.append(group)
            num_tokens += size
            num_parts += len(group)
            is_full = num_tokens >= most or num_parts >= _MAX_STRETCH_LINES
            if is_full or (is_pause and stretch):
                yield stretch
                stretch, num_tokens, num_parts = [], 0, 0
                most = max_tokens
    except BertExtractError:
        if stretch:
            yield stretch
        raise
    if num_tokens >= max_tokens * _LEAST_DIVIDED and len(stretch) > 1:
        end = _first_groups(stretch, num_tokens * 3 // 4)
        yield stretch[:end]
        stretch = stretch[end:]
    if stretch:
        yield stretch


def _first_groups(stretch: Sequence[Sequence[Features]], num_tokens: int) -> int:
    """How many groups it takes to have so many tokens; never all of them."""
    sizes = [sum(part.size for part in group) for group in stretch]
    num_groups = 1 + sum(before < num_tokens for before in accumulate(sizes))
    return min(num_groups, len(stretch) - 1)


def plan_batches(padded_lengths: Sequence[int], max_slots: int) -> list[list[int]]:
    """Puts the lines of a stretch into batches of one length, the longest ones first.

    Args:
      padded_lengths: the padded length of each line; 0 for what has no tokens, which
        is in no batch.
      max_slots: the most rows x padded length of one batch; a line that is longer
        alone makes a batch of its own.

    Returns:
      For each batch the indexes of its lines in the stretch.
    """
    batches = []
    for length, line_indexes in _by_length(padded_lengths).items():
        most = max(1, max_slots // length)
        starts = range(0, len(line_indexes), most)
        batches += [line_indexes[start : start + most] for start in starts]
    return batches


def plan_packed_batches(
    lengths: Sequence[int], max_slots: int, least_slots: int = 1
) -> list[list[int]]:
    """Puts the lines of a stretch into batches of any lengths, the longest ones first.

    As few as will do, and nearly all of the very same size: TensorFlow needs some
    milliseconds for each size that it meets for the first time.

    Args:
      lengths: of each line, in tokens; 0 for what has no tokens, which is in no batch.
      max_slots: the most tokens of one batch; a line that is longer alone makes a batch
        of its own.
      least_slots: a batch with fewer tokens costs as much as one with so many; the last
        one may exceed `max_slots` for it.

    Returns:
      For each batch the indexes of its lines in the stretch, by length.
    """
    by_length = {
        length: deque(line_indexes)
        for length, line_indexes in _by_length(lengths).items()
    }
    num_left = sum(lengths)
    max_slots = max(max_slots, least_slots)
    num_batches = max(1, -(-num_left // max_slots))
    share = max(-(-num_left // num_batches), least_slots)
    batches: list[list[int]] = []
    size = 0
    while by_length:
        batch, size = _fill(by_length, num_left if num_left <= max_slots else share)
        batches.append(batch)
        num_left -= size
    if size < least_slots and len(batches) > 1:
        last = batches.pop()
        batches[-1] += last
    return batches


def _by_length(lengths: Sequence[int]) -> dict[int, list[int]]:
    """The indexes of the lines of each length, the longest first; none of length 0."""
    indexes: dict[int, list[int]] = {}
    for line_index, length in enumerate(lengths):
        if length:
            indexes.setdefault(length, []).append(line_index)
    return {length: indexes[length] for length in sorted(indexes, reverse=True)}


def _fill(by_length: dict[int, deque[int]], most: int) -> tuple[list[int], int]:
    """Takes the longest lines that there is room for, again and again.

    Args:
      by_length: the lines that are left, the longest first; what is taken goes.
      most: tokens; one line alone may have more.

    Returns:
      The lines, and how many tokens they have.
    """
    batch: list[int] = []
    size = 0
    for length, line_indexes in list(by_length.items()):
        num = min((most - size) // length, len(line_indexes))
        if not batch:
            num = max(num, 1)
        batch += [line_indexes.popleft() for _ in range(num)]
        size += num * length
        if not line_indexes:
            del by_length[length]
        if size >= most:
            break
    return batch, size


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """What the model gets: lines of any lengths, token after token.

    T is the sum of the lengths.
    """

    input_ids: NDArray[np.int32]  # [T]
    token_type_ids: NDArray[np.int32]  # [T]
    positions: NDArray[np.int32]  # [T], of each token in its line
    lengths: NDArray[np.int32]  # [num_lines]


def pack(lines: Sequence[Features]) -> PackedBatch:
    """Lays lines one behind the other."""
    lengths = np.fromiter((len(x.input_ids) for x in lines), np.int32, len(lines))
    ends = np.cumsum(lengths, dtype=np.int32)
    positions = np.arange(ends[-1], dtype=np.int32)
    return PackedBatch(
        input_ids=np.concatenate([line.input_ids for line in lines]),
        token_type_ids=np.concatenate([line.token_type_ids for line in lines]),
        positions=positions - np.repeat(ends - lengths, lengths),
        lengths=lengths,
    )


def to_batch(lines: Sequence[Features], seq_length: int) -> Batch:
    """Pads lines to one length.

    Args:
      lines: each with at most `seq_length` tokens.
      seq_length: the padded length.

    Returns:
      int32 [len(lines), seq_length] three times.
    """
    shape = (len(lines), seq_length)
    input_ids = np.zeros(shape, np.int32)
    input_mask = np.zeros(shape, np.int32)
    token_type_ids = np.zeros(shape, np.int32)
    for row, line in enumerate(lines):
        num_tokens = len(line.input_ids)
        input_ids[row, :num_tokens] = line.input_ids
        input_mask[row, :num_tokens] = 1
        token_type_ids[row, :num_tokens] = line.token_type_ids
    return Batch(input_ids, input_mask, token_type_ids)
