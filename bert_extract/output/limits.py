"""How much a format takes: what is more is refused, before the work where it can be.

HDF5 alone has limits. The text that it keeps is counted as it stands in the file, and
the count goes with what is durable: a run that goes on need not read the lines again.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass

from bert_extract.errors import OutputError
from bert_extract.files import is_remote
from bert_extract.formats import HDF5, Format
from bert_extract.inputs.features import Features
from bert_extract.text.splits import Split, count_lines
from bert_extract.text.unpacking import is_compressed


@dataclass(frozen=True, slots=True)
class Limits:
    """What a format has room for."""

    max_records: int
    max_text_size: int  # of the lines that it keeps: see `text_size`


# By the format's name. sentence_to_index, which names all lines, is one string that
# cannot grow: it is made in memory, and HDF5 has 32 bits for its length.
_LIMITS = {HDF5.name: Limits(max_records=1_000_000, max_text_size=256_000_000)}

# What a line takes there beside its own text, at most:
# ' (Occurrence 1000000)' and ': "999999999999", '.
_MAX_BYTES_BESIDE_LINE = 40


def text_size(line: str) -> int:
    """The bytes that a kept line takes in a file, at most."""
    return len(json.dumps(line)) + _MAX_BYTES_BESIDE_LINE


def check_inputs(
    splits: Sequence[Split], output_format: Format, output_file: str
) -> None:
    """Refuses now, not after hours, what the format has no room for.

    What cannot be counted at the speed of a disk is refused when it comes: see `Room`.

    Raises:
      OutputError: the inputs have more lines or bytes.
    """
    limits = _LIMITS.get(output_format.name)
    if limits is None:
        return
    ends: list[tuple[Split, int]] = []
    for split in splits:
        if is_remote(split.path) or not os.path.isfile(split.path):
            continue
        if not is_compressed(split.path):
            size = os.path.getsize(split.path)
            ends.append((split, size if split.end is None else split.end))
    num_bytes = sum(end - split.start for split, end in ends)
    if num_bytes > limits.max_text_size:
        raise OutputError(
            f"{output_file}: the input has {num_bytes:,} bytes: "
            f"{_too_much(output_format, limits)}"
        )
    most = limits.max_records
    if num_bytes <= most:  # a line has at least one byte
        return
    num_lines = 0
    for split, end in ends:
        num_lines += count_lines(split.path, end)
        num_lines -= count_lines(split.path, split.start)
        if num_lines > most:
            raise OutputError(
                f"{output_file}: the input has more than {most:,} lines: "
                f"{_too_much(output_format, limits)}"
            )


class Room:
    """The room that an output has left."""

    def __init__(
        self,
        output_format: Format,
        output_file: str,
        num_records: int = 0,
        text_size: int = 0,
    ) -> None:
        """Looks up what the format takes.

        Args:
          output_format: of the output.
          output_file: as messages name it.
          num_records: how many are there already.
          text_size: of their lines.
        """
        self._format = output_format
        self._output_file = output_file
        self._num_records = num_records
        self._text_size = text_size

    def take(self, lines: Sequence[Features]) -> int:
        """Takes the room of a group of lines and parts of lines.

        Returns:
          The size of the text that is kept of them.

        Raises:
          OutputError: there is not so much.
        """
        limits = _LIMITS.get(self._format.name)
        if limits is None:
            return 0
        before = self._text_size
        for features in lines:
            if features.line is None:  # not a line's first part
                continue
            self._text_size += text_size(features.line)
            if self._text_size > limits.max_text_size:
                raise OutputError(
                    f"{self._output_file}: the lines up to linex_index "
                    f"{features.unique_id} have more than {limits.max_text_size:,} "
                    f"bytes: {_too_much(self._format, limits)}"
                )
        self._num_records += sum(features.is_last for features in lines)
        if self._num_records > limits.max_records:
            raise OutputError(f"{self._output_file}: {_too_much(self._format, limits)}")
        return self._text_size - before


def _too_much(output_format: Format, limits: Limits) -> str:
    return (
        f"the format {output_format.name} takes at most {limits.max_records:,} lines "
        f"and {limits.max_text_size:,} bytes of text, as JSON; "
        "write Parquet (--output_format=parquet), or one file for each of several "
        "parts of the input (--shard=0/8, --shard=1/8, ...)"
    )
