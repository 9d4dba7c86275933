#!/usr/bin/env python3
"""Shows a file of records to a person: each line's tokens, and its vectors in short.

    .venv/bin/python scripts/show_features.py output.jsonl

One block a record. Each row is a layer: the first values of the vector of [CLS], how
many there are, and the vector's length.
"""

import signal
import sys
import textwrap
from collections.abc import Iterator

import numpy as np

from bert_extract import BertExtractError, Record, read_features

_NUM_VALUES = 3  # shown of a vector
_TEXT_WIDTH = 34
_HEADER = "line      layer  first values of [CLS]       length  tokens"


def table_rows(record: Record) -> Iterator[str]:
    """Yields the rows of one record, the tokens beside the layers."""
    num_rows = max(1, len(record.layers))
    text = f"{len(record.tokens)}: {' '.join(record.tokens)}"
    pieces = textwrap.wrap(
        text,
        _TEXT_WIDTH,
        max_lines=num_rows,
        placeholder=" ...",
        break_on_hyphens=False,
    )
    for row in range(num_rows):
        number = str(record.linex_index) if row == 0 else ""
        tokens = pieces[row] if row < len(pieces) else ""
        yield f"{number:>4} {_layer_text(record, row):<46}  {tokens}".rstrip()


def _layer_text(record: Record, row: int) -> str:
    if row >= len(record.layers):
        return ""
    vector = record.layers[row][0]
    values = " ".join(f"{value:7.3f}" for value in vector[:_NUM_VALUES].tolist())
    length = float(np.linalg.norm(vector))
    return f"{record.indexes[row]!s:>10}  {values} x{vector.size:<4d}{length:>6.2f}"


def main(argv: list[str]) -> int:
    """Prints the table of the file that is named; returns the exit code."""
    if len(argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        print(_HEADER)
        for record in read_features(argv[1]):
            print(*table_rows(record), sep="\n")
    except BertExtractError as error:
        print(f"show_features.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # "| head" ends it quietly
    sys.exit(main(sys.argv))
