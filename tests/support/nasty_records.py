"""Records that a format might get wrong."""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from bert_extract.output.record import Record, RecordPart

NASTY_TOKENS = (
    "",
    " ",
    "?",
    '"',
    "\\",
    "\\u0041",
    "\x00",
    "\x1f\x7f\t\n\r\b\f",
    "é",
    "e\u0301",
    "\u2028\u2029",
    "北京",
    "😀",
    "\U0010ffff",
    "\ud800",
    "##ing",
    "/",
    "\ufeff",
    "x" * 201,
    "日" * 5000,
    "{}",
    "%s\0",
)
NASTY_LINES = (
    "",
    "the river bank",
    "the river bank",
    "",
    "the river bank (Occurrence 2)",
    "the river bank",
    "a/b/c",
    'a "b" \\ \x00 c',
    "a ||| b",
    "北京 😀 \u2028",
)


def make_record(
    linex_index: int,
    num_tokens: int,
    *,
    indexes: tuple[int | str, ...] = (-1, "embeddings"),
    size: int = 12,
    is_annotated: bool = False,
) -> Record:
    """A record of random values; the same for the same arguments."""
    rng = np.random.default_rng(linex_index * 1000 + num_tokens)
    record = Record(
        linex_index,
        tuple(itertools.islice(itertools.cycle(NASTY_TOKENS), num_tokens)),
        indexes,
        tuple(rng.normal(size=(num_tokens, size)).astype(np.float32) for _ in indexes),
    )
    return annotated(record) if is_annotated else record


def annotated(record: Record) -> Record:
    """The record with a text and an offset for each entry, some of them null."""
    numbers = range(len(record.tokens))
    return dataclasses.replace(
        record,
        texts=tuple("ab"[number % 2] for number in numbers),
        offsets=tuple(
            None if number % 5 == 0 else (number, 10**number % 10**9)
            for number in numbers
        ),
    )


def with_lines(records: Iterable[Record]) -> list[RecordPart]:
    """The records as writers take them, each with the text of a nasty line."""
    return [*map(RecordPart, records, itertools.cycle(NASTY_LINES))]


def parts_of(
    record: Record, cuts: Sequence[int], line: str | None = None
) -> list[RecordPart]:
    """The record in parts that end at the cuts and at its end."""
    edges = [0, *(min(cut, len(record.tokens)) for cut in cuts), len(record.tokens)]
    return [
        RecordPart(
            dataclasses.replace(
                record,
                tokens=record.tokens[start:end],
                layers=tuple(layer[start:end] for layer in record.layers),
                texts=None if record.texts is None else record.texts[start:end],
                offsets=None if record.offsets is None else record.offsets[start:end],
            ),
            line=line if number == 0 else None,
            position=start,
            is_first=number == 0,
            is_last=number == len(edges) - 2,
        )
        for number, (start, end) in enumerate(itertools.pairwise(edges))
    ]
