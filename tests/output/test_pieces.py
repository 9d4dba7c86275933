"""Pieces of a file of records: together all of it, each read by itself."""

import gzip
from pathlib import Path

import pytest

from bert_extract import InputError, Record, load_features
from bert_extract.output import parquet
from bert_extract.output.pieces import Pieces, find_pieces
from support.extracted_files import extract_to_all
from support.record_files import SUFFIXES

# Words, of which a blank line has none; 70 lines are more than one piece everywhere.
LINES = ["the river bank", "", "the bank took the money " * 5, "one", "two more"] * 14


@pytest.fixture(scope="module")
def files(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("records")
    with pytest.MonkeyPatch.context() as patch:
        # So small that lines lie across the ends of row groups.
        patch.setattr(parquet, "_ROW_GROUP_BYTES", 1)
        patch.setattr(parquet, "_MIN_ROWS", 16)
        return extract_to_all(tiny_bert, folder, LINES, unit="word", layers=[-1, 0])


def read_all(pieces: Pieces, **fields: list[int | str]) -> list[list[Record]]:
    return [list(pieces.read(number, **fields)) for number in range(len(pieces))]


@pytest.mark.parametrize(
    ("suffix", "num_pieces"),
    [*zip(SUFFIXES, (70, 9, 9, 3, 19), strict=True)],
)
def test_the_pieces_of_a_file_are_all_of_it(
    suffix: str, num_pieces: int, files: dict[str, Path]
) -> None:
    (pieces,) = find_pieces(files[suffix])
    found = read_all(pieces)
    assert len(found) == num_pieces
    assert [len(records) for records in found] == pieces.num_lines.tolist()
    together = [record for records in found for record in records]
    expected = load_features(files[suffix])
    assert [record.linex_index for record in together] == list(range(70))
    assert [record.tokens for record in together] == [r.tokens for r in expected]
    # JSON does not tell which layers a line without entries has.
    assert [r for r in together if r.tokens] == [r for r in expected if r.tokens]
    # In any order.
    assert list(pieces.read(1)) == found[1]
    (some,) = find_pieces([str(files[suffix])])
    last = list(some.read(num_pieces - 1, layers=[0]))
    assert last == load_features(files[suffix], layers=[0])[-len(last) :]


def test_what_others_compressed_is_one_piece(
    files: dict[str, Path], tmp_path: Path
) -> None:
    text = files[".jsonl"].read_bytes()
    path = tmp_path / "others.jsonl.gz"
    path.write_bytes(gzip.compress(text.removesuffix(b"\n")))
    (pieces,) = find_pieces(path)
    assert (len(pieces), pieces.num_lines.tolist()) == (1, [70])
    assert [r.linex_index for r in pieces.read(0)] == list(range(70))
    middle = text.index(b"\n") + 100  # within a line
    halves = gzip.compress(text[:middle]) + gzip.compress(text[middle:])
    path.write_bytes(halves)
    (pieces,) = find_pieces(path)
    assert pieces.num_lines.tolist() == [70]
    assert len(list(pieces.read(0))) == 70


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_was_cut_off_is_refused(
    suffix: str, files: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / f"cut{suffix}"
    content = files[suffix].read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="cut"):
        [read_all(pieces) for pieces in find_pieces(path)]


def test_an_empty_file_has_no_piece(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    (pieces,) = find_pieces(tmp_path / "empty.jsonl")
    assert len(pieces) == 0


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.jsonl: cannot be read: No such file"):
        find_pieces(tmp_path / "gone.jsonl")
