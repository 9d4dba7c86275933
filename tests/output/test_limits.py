"""What HDF5 has no room for is refused; how much there is goes with what is durable."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_extract.errors import OutputError
from bert_extract.formats import HDF5, JSONL, PARQUET, Format
from bert_extract.inputs.features import Features, LinePart, TakenTokens
from bert_extract.output.append_file import AppendFile
from bert_extract.output.limits import _LIMITS, Limits, Room, text_size
from bert_extract.output.record import RecordPart, RecordSchema
from bert_extract.output.run_file import _crc_of
from bert_extract.output.writers import OutputSpec, Writer, encoder_for, open_writer
from support.nasty_records import NASTY_LINES, make_record, parts_of

KIND = OutputSpec(HDF5, RecordSchema((-1, "embeddings"), 12))


def features(unique_id: int, line: str | None, is_last: bool = True) -> Features:
    part = LinePart(TakenTokens(0, 2), is_last=is_last)
    ids = np.array([1, 2], np.int32)
    return Features(unique_id, ids, 0 * ids, False, False, part=part, line=line)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four lines, with as much text as four of eight letters have."""
    monkeypatch.setitem(_LIMITS, "hdf5", Limits(4, 4 * text_size("a letter")))


def test_the_text_of_a_line_is_counted_as_json() -> None:
    assert [text_size(line) for line in ("", "ab", '"', "é", "😀")] == [
        42,
        44,
        44,
        48,
        54,
    ]


@pytest.mark.usefixtures("few")
def test_lines_are_taken_until_there_is_no_room() -> None:
    room = Room(HDF5, "out.h5")
    assert room.take([features(0, "ab"), features(1, "a", is_last=False)]) == 44 + 43
    assert room.take([features(1, None), features(2, ""), features(3, "")]) == 84
    with pytest.raises(
        OutputError, match=r"^out\.h5: the format hdf5 takes at most 4 lines and 200 by"
    ) as caught:
        room.take([features(4, None)])
    assert str(caught.value).endswith(
        "bytes of text, as JSON; write Parquet (--output_format=parquet), or one file "
        "for each of several parts of the input (--shard=0/8, --shard=1/8, ...)"
    )


@pytest.mark.usefixtures("few")
def test_what_is_kept_has_taken_room() -> None:
    Room(HDF5, "out.h5", 3, 150).take([features(3, "a letter")])
    with pytest.raises(OutputError, match=r"h5: the lines up to linex_index 3 have m"):
        Room(HDF5, "out.h5", 3, 150).take([features(3, "a letter!")])
    with pytest.raises(OutputError, match="takes at most 4 lines"):
        Room(HDF5, "out.h5", 4).take([features(4, "")])


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("output_format", [JSONL, PARQUET])
def test_other_formats_take_anything(output_format: Format) -> None:
    room = Room(output_format, "out", 10**9)
    assert room.take([features(n, "a letter") for n in range(9)]) == 0


# ----------------------------------------------------------- kept with what is durable


def write(writer: Writer, parts: Sequence[RecordPart], commits: bool = True) -> None:
    encode, _ = encoder_for(KIND)
    size = sum(text_size(part.line) for part in parts if part.line is not None)
    num_records = sum(part.is_last for part in parts)
    writer.write(encode(parts), num_records, parts[-1].is_last, size)
    if commits:
        writer.commit()


def line_parts(number: int) -> list[RecordPart]:
    """Two parts of a line, of which the second one has no text."""
    return parts_of(make_record(number, 5), [2], NASTY_LINES[number])


def opened(path: Path, resume: bool = True) -> Writer:
    return open_writer(str(path), KIND, {}, resume)


def run_file_of(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(
        (path.parent / f"{path.name}.partial.run.json").read_bytes()
    )
    return content


def sizes(end: int) -> list[int]:
    return [sum(map(text_size, NASTY_LINES[:n])) for n in range(1, end + 1)]


def test_the_size_of_the_text_goes_on_with_the_run(tmp_path: Path) -> None:
    writer = opened(tmp_path / "out.h5", resume=False)
    for number in range(3):
        write(writer, line_parts(number))
    write(writer, line_parts(3)[:1])  # within a line
    assert writer.suspend() == 3
    checkpoints = run_file_of(tmp_path / "out.h5")["checkpoints"]
    assert [size for *_, size in checkpoints] == sizes(3)
    writer = opened(tmp_path / "out.h5")
    assert (writer.num_records_kept, writer.text_size_kept) == (3, sizes(3)[-1])
    for number in range(3, 6):
        write(writer, line_parts(number))
    writer.suspend()
    assert opened(tmp_path / "out.h5").text_size_kept == sizes(6)[-1]


def test_what_a_version_left_that_did_not_count_is_counted(tmp_path: Path) -> None:
    writer = opened(tmp_path / "out.h5", resume=False)
    for number in range(3):
        write(writer, line_parts(number))
    writer.suspend()
    content = run_file_of(tmp_path / "out.h5")
    content["checkpoints"] = [counts[:3] for counts in content["checkpoints"]]
    del content["crc"]
    content["crc"] = _crc_of(content)
    (tmp_path / "out.h5.partial.run.json").write_text(json.dumps(content))
    for end in (3, 5):
        writer = opened(tmp_path / "out.h5")
        assert (writer.num_records_kept, writer.text_size_kept) == (end, sizes(end)[-1])
        for number in range(end, end + 2):
            write(writer, line_parts(number))
        writer.suspend()
    checkpoints = run_file_of(tmp_path / "out.h5")["checkpoints"]
    # Those before the last one that was kept are never needed but after a damage.
    assert [size for *_, size in checkpoints] == [None, None, *sizes(7)[2:]]
    with open(tmp_path / "out.h5.partial", "r+b") as file:
        os.pwrite(file.fileno(), b"damage", checkpoints[1][0] + 100)
    writer = opened(tmp_path / "out.h5")
    assert (writer.num_records_kept, writer.text_size_kept) == (2, sizes(2)[-1])
    writer.suspend()


def test_what_reached_the_file_of_a_call_that_failed_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = opened(tmp_path / "out.h5", resume=False)
    write(writer, line_parts(0))
    write(writer, line_parts(1), commits=False)

    def interrupted(self: AppendFile) -> None:
        make_durable(self)
        raise KeyboardInterrupt

    make_durable = AppendFile.flush
    monkeypatch.setattr(AppendFile, "flush", interrupted)
    with pytest.raises(KeyboardInterrupt):
        writer.commit()
    monkeypatch.undo()
    assert writer.suspend() == 2
    writer = opened(tmp_path / "out.h5")
    assert (writer.num_records_kept, writer.text_size_kept) == (2, sizes(2)[-1])
    writer.suspend()
