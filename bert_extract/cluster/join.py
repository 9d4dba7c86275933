"""Parts -> one output: their bytes, one after the other, checked on the way."""

import os
from collections.abc import Iterator, Sequence

from bert_extract.errors import OutputError
from bert_extract.output.append_file import explaining
from bert_extract.output.checksum import crc32
from bert_extract.output.parts import Part
from bert_extract.output.writers import Writer

_BLOCK_SIZE = 1 << 22
# After so many bytes a join that is killed need not begin again.
_COMMIT_BYTES = 1 << 30


def join_parts(folder: str, parts: Sequence[Part], writer: Writer) -> None:
    """Writes the output; the parts stay.

    Args:
      folder: of the parts, which are JSON lines, compressed or not.
      parts: all of them, in order.
      writer: of the output; what it has from an earlier join is not written again.

    Raises:
      OutputError: a part is not what was written, or the output cannot be written.
    """
    if writer.is_complete:
        return
    try:
        num_kept = writer.num_bytes
        num_records = writer.num_records_kept
        end = end_of_records = last_commit = 0
        for part in parts:
            start, end = end, end + part.num_bytes
            end_of_records += part.num_lines
            if end <= num_kept:
                continue
            for block in _blocks(folder, part, max(0, num_kept - start)):
                writer.write([block], 0, is_whole=False)
            writer.write([], max(0, end_of_records - num_records), is_whole=True)
            num_records = max(num_records, end_of_records)
            if end - last_commit >= _COMMIT_BYTES:
                last_commit = end
                writer.commit()
        writer.finish()
    except BaseException:
        writer.suspend()
        raise


def _blocks(folder: str, part: Part, num_skipped: int) -> Iterator[bytes]:
    """Yields a part's bytes behind the first ones; all of them are checked."""
    path = os.path.join(folder, part.name)
    position = crc = 0
    with explaining(path), open(path, "rb", buffering=0) as reader:
        while block := reader.read(_BLOCK_SIZE):
            crc = crc32(block, crc)
            skipped = min(max(num_skipped - position, 0), len(block))
            position += len(block)
            if skipped < len(block):
                yield block[skipped:]
    if position != part.num_bytes or crc != part.crc:
        raise OutputError(
            f"{path}: damaged: expected the {part.num_bytes:,} bytes that were written "
            f"there; found {position:,}, or others. Remove it and give the same "
            "command with --resume, which computes it again"
        )
