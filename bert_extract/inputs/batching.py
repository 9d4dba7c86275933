"""Features -> Batch: stretches sorted by length; the only place that pads.

Lines of one padded length share a batch, and the padded length is a function of the
line's own length: so what the model computes for a line does not depend on which
other lines stand near it. Small batches of several lengths may be computed together,
each with attention of its own.
"""

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
    group: list[Features] = []
    num_entries = 0
    for part in features:
        if part is None:
            if group:
                yield group
            yield []
            group, num_entries = [], 0
            continue
        group.append(part)
        num_entries += part.size
        is_full = len(group) >= (GROUP_SIZE if part.is_last else _MAX_GROUP_SIZE)
        if is_full or (num_entries >= _MAX_GROUP_ENTRIES and not part.is_last):
            yield group
            group, num_entries = [], 0
    if group:
        yield group


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
        for group in groups(features):
            is_pause = not group
            if not is_pause:
                stretch.append(group)
            num_tokens += sum(part.size for part in group)
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


def plan_batches(
    padded_lengths: Sequence[int],
    max_slots: int,
    *,
    mixes_lengths: bool = False,
    least_slots: int = 1,
) -> list[list[int]]:
    """Puts the lines of a stretch into batches, the ones with longest lines first.

    Lines of one length fill batches as far as they go; those that are left over may
    share batches with lines of the next lengths.

    Args:
      padded_lengths: the padded length of each line; 0 for what has no tokens, which
        is in no batch.
      max_slots: the most rows x padded length of one batch; a line that is longer
        alone makes a batch of its own.
      mixes_lengths: whether a batch may have lines of several lengths.
      least_slots: a batch with fewer costs as much as one with so many. One of several
        lengths may exceed `max_slots` for it.

    Returns:
      For each batch the indexes of its lines in the stretch, by length.
    """
    indexes_by_length: dict[int, list[int]] = {}
    for line_index, length in enumerate(padded_lengths):
        if length:
            indexes_by_length.setdefault(length, []).append(line_index)
    batches, leftovers = [], []
    for length in sorted(indexes_by_length, reverse=True):
        line_indexes = indexes_by_length[length]
        most = max(1, max_slots // length)
        cut = [line_indexes[i : i + most] for i in range(0, len(line_indexes), most)]
        if mixes_lengths and most * length < least_slots:
            leftovers += line_indexes
            continue
        if mixes_lengths and len(cut[-1]) < most:
            leftovers += cut.pop()
        batches += cut
    batches += _pack(leftovers, padded_lengths, max_slots, least_slots)
    return sorted(batches, key=lambda batch: -padded_lengths[batch[0]])


def _pack(
    line_indexes: Sequence[int],
    padded_lengths: Sequence[int],
    max_slots: int,
    least_slots: int,
) -> list[list[int]]:
    """Divides lines, the longest first, into batches of nearly the same size."""
    num_slots = sum(padded_lengths[line_index] for line_index in line_indexes)
    # As few as will do, and each with its share.
    share = num_slots / max(1, -(-num_slots // max(max_slots, least_slots)))
    share = max(share, least_slots)
    batches: list[list[int]] = []
    size = 0
    for line_index in line_indexes:
        length = padded_lengths[line_index]
        is_too_large = size + length > max_slots and size >= least_slots
        if not batches or size >= share or is_too_large:
            batches.append([])
            size = 0
        batches[-1].append(line_index)
        size += length
    if size < least_slots and len(batches) > 1:
        last = batches.pop()
        batches[-1] += last
    return batches


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """What the model gets: batches of several padded lengths, row after row.

    T is the sum of batch_size * seq_length.
    """

    input_ids: NDArray[np.int32]  # [T]
    input_mask: NDArray[np.int32]  # [T], 1 for a token
    token_type_ids: NDArray[np.int32]  # [T]
    positions: NDArray[np.int32]  # [T], of each token in its line
    shapes: NDArray[np.int32]  # [num_batches, 2]: batch_size, seq_length


def pack(batches: Sequence[Batch]) -> PackedBatch:
    """Lays batches one behind the other."""
    shapes = [batch.input_ids.shape for batch in batches]
    positions = [np.tile(np.arange(length, dtype=np.int32), n) for n, length in shapes]
    return PackedBatch(
        input_ids=np.concatenate([batch.input_ids.ravel() for batch in batches]),
        input_mask=np.concatenate([batch.input_mask.ravel() for batch in batches]),
        token_type_ids=np.concatenate([b.token_type_ids.ravel() for b in batches]),
        positions=np.concatenate(positions),
        shapes=np.array(shapes, np.int32),
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
