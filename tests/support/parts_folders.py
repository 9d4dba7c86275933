"""Folders of small parts, as workers leave them."""

from collections.abc import Sequence
from pathlib import Path

from bert_extract import Record
from bert_extract.formats import format_of
from bert_extract.output.checksum import crc32
from bert_extract.output.parts import (
    Part,
    PartsFolder,
    commit,
    part_name,
    temporary_file,
)
from bert_extract.output.record import RecordSchema
from bert_extract.output.writers import OutputSpec, encoder_for, open_writer
from support.nasty_records import make_record, with_lines

NUM_LINES = 7
ARITHMETIC = {"arithmetic": "Eigen, AVX2"}


def kind_of(suffix: str) -> OutputSpec:
    return OutputSpec(format_of(suffix), RecordSchema((-1, 0), 12))


def records_of(first: int, num_lines: int) -> list[Record]:
    return [
        make_record(index, 3, indexes=(-1, 0))
        for index in range(first, first + num_lines)
    ]


def write_output(path: Path, records: Sequence[Record]) -> bytes:
    kind = kind_of(path.name)
    encode, _ = encoder_for(kind)
    writer = open_writer(str(path), kind, {}, resume=False)
    writer.write(encode(with_lines(records)), len(records), is_whole=True)
    writer.finish()
    return path.read_bytes()


def add_part(
    folder: PartsFolder, suffix: str, first: int, num_lines: int, run: str = "run"
) -> Part:
    """Does what a worker does with a split."""
    name = part_name(0, first, format_of(suffix))
    temporary = Path(temporary_file(folder.path, run, name))
    content = write_output(temporary, records_of(first, num_lines))
    part = Part(name, first, num_lines, len(content), crc32(content), ARITHMETIC, "n1")
    commit(folder.path, str(temporary), part)
    return part


def make_folder(path: Path, suffix: str = ".jsonl") -> tuple[PartsFolder, list[Part]]:
    folder = PartsFolder(str(path))
    folder.begin("run", {"layers": [-1, 0]}, {"split_bytes": 3})
    # As they come: in any order.
    parts = [add_part(folder, suffix, first, 3) for first in (3, 0)]
    parts.append(add_part(folder, suffix, 6, 1))
    return folder, sorted(parts, key=lambda part: part.name)
