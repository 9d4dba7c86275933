"""What a file of records holds, told without reading all of it."""

from dataclasses import dataclass
from typing import Literal

from bert_extract.output.record import Record

# How a number is known: by counting, by the file's own metadata, by the numbers of the
# first line and the last, by the file that tells how it was made, or from samples.
Source = Literal["counted", "metadata", "numbers", "run file", "estimated", "unknown"]


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a file, in any format."""

    # The first record that has entries, or the beginning of it; one without entries if
    # there is none among the first ones; None if there is no record at all.
    first: Record | None = None
    num_lines: int | None = None
    lines_from: Source = "unknown"
    first_line: int | None = None  # its linex_index
    last_line: int | None = None
    num_tokens: int | None = None  # entries: wordpieces, words, or one a line
    tokens_from: Source = "unknown"
    vector_dtype: str = ""  # "float32", "float16", or "six decimals" of JSON
    # Whether it was written to its end; None if the file itself cannot tell.
    is_whole: bool | None = None
    trouble: str = ""  # what is wrong with it
