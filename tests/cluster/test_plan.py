"""The plan's splits, laid end to end, are the input: counted, summed, none twice."""

import gzip
import itertools
import random
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from bert_extract.cluster import plan as plan_module
from bert_extract.cluster.plan import (
    PlannedSplit,
    SplitPlan,
    check_bytes,
    check_plannable,
    choose_split_bytes,
)
from bert_extract.errors import InputError
from bert_extract.text.examples import Example
from bert_extract.text.splits import Split, SplitReader, plan_splits


def read(splits: Sequence[Split]) -> list[Example]:
    return list(SplitReader(splits, "strict"))


def random_content(rng: random.Random) -> bytes:
    """Blank lines, CR, long lines; with or without a last newline."""
    pieces = [
        b"x" * rng.choice([0, 0, 1, 2, 5, 40]) + rng.choice([b"\n", b"\r\n", b"\n\n"])
        for _ in range(rng.randrange(8))
    ]
    pieces.append(rng.choice([b"", b"", b"last", b"\r", b"\r\r", b"\n", b"a\r"]))
    return b"".join(pieces)


def check_plan(paths: Sequence[Path], split_bytes: int) -> None:
    names = [str(path) for path in paths]
    whole = read(plan_splits(names))
    plan = SplitPlan(names, split_bytes)
    assert plan.num_lines == len(whole)
    found = []
    for planned in plan:
        lines = read([planned.split])
        assert len(lines) == planned.num_lines
        assert planned.num_lines or len(plan) == 1
        check_bytes(planned)
        found += lines
    # Not where the texts stand, which is an array.
    assert [line[:3] for line in found] == [line[:3] for line in whole]


@pytest.mark.parametrize("block_size", [3, 1 << 20])
def test_splits_are_the_input(
    tmp_path: Path, block_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_module, "_BLOCK_SIZE", block_size)
    rng = random.Random(block_size)
    for _ in range(60):
        paths = []
        for number in range(rng.randrange(1, 4)):
            content = random_content(rng)
            path = tmp_path / f"{number}.txt"
            if rng.random() < 0.3:
                path = tmp_path / f"{number}.txt.gz"
                content = gzip.compress(content)
            path.write_bytes(content)
            paths.append(path)
        for split_bytes in (1, 2, 7, 30, 1000):
            check_plan(paths, split_bytes)


def test_every_cut_of_every_small_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_module, "_BLOCK_SIZE", 2)
    path = tmp_path / "in.txt"
    for parts in itertools.product([b"\n", b"a", b"\r"], repeat=4):
        path.write_bytes(b"".join(parts))
        for split_bytes in (1, 2, 3):
            check_plan([path], split_bytes)


def test_a_split_knows_its_place_and_its_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_bytes(b"a\nbb\nc\n")
    second.write_bytes(b"dd\ne")
    plan = SplitPlan([str(first), str(second)], 3)
    assert list(plan) == [
        PlannedSplit(Split(str(first), 0, 5, 0, 0), 0, 2, 5, zlib.crc32(b"a\nbb\n")),
        PlannedSplit(Split(str(first), 5, 7, 2, 2), 0, 1, 2, zlib.crc32(b"c\n")),
        PlannedSplit(Split(str(second), 0, 3, 0, 3), 1, 1, 3, zlib.crc32(b"dd\n")),
        PlannedSplit(Split(str(second), 3, 4, 1, 4), 1, 1, 1, zlib.crc32(b"e")),
    ]
    assert (plan.num_lines, plan.num_bytes) == (5, 11)


def test_a_compressed_file_is_one_split(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"a\nb\n" * 100))
    (only,) = SplitPlan([str(path)], 1)
    assert only.split == Split(str(path), 0, None, 0, 0)
    assert only.num_lines == 200
    assert only.num_bytes == path.stat().st_size


def test_an_input_of_no_lines_is_one_split_of_none(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\r\r")
    (only,) = SplitPlan([str(path)], 10)
    assert only.num_lines == 0
    assert read([only.split]) == []


@pytest.mark.parametrize(
    ("content", "found"), [(b"a\nbX\n", "found "), (b"a\nb", "1 bytes too few")]
)
def test_a_node_that_sees_another_file_says_which(
    tmp_path: Path, content: bytes, found: str
) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(b"a\nb\n")
    second = SplitPlan([str(path)], 1)[1]
    check_bytes(second)
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        check_bytes(second)
    assert f"{path}: its bytes from 2 to 4" in str(caught.value)
    assert found in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "more", "is_another"),
    [
        ("in.txt", b"a\nbb", b"b\n", True),  # the last line is longer now
        ("in.txt", b"a\nbb\n", b"c\n", False),  # what was planned is there
        ("in.txt.gz", gzip.compress(b"a\n", mtime=0), b"\x1f\x8b", True),
    ],
    ids=["a last line", "behind it", "compressed"],
)
def test_a_file_that_has_grown_is_another_where_its_end_counts(
    tmp_path: Path, name: str, content: bytes, more: bytes, is_another: bool
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    *_, planned = SplitPlan([str(path)], 2)
    path.write_bytes(content + more)
    if is_another:
        with pytest.raises(InputError, match=", and more behind them"):
            check_bytes(planned)
    else:
        check_bytes(planned)
        assert [each.text_a for each in read([planned.split])] == ["bb"]


def test_a_split_is_a_minutes_work_and_less_where_workers_would_wait() -> None:
    # BERT-base on a core, a terabyte, a hundred workers: a minute.
    assert choose_split_bytes(10**12, 100, 200.0) == 48_000
    # 20 splits for each of 4 workers.
    assert choose_split_bytes(80_000_000, 4, 100_000.0) == 1_000_000
    assert choose_split_bytes(1000, 4, 1000.0) == 1 << 14


def test_a_pipe_is_no_input_for_many(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a regular file"):
        check_plannable(["/dev/null"])
    check_plannable(["gs://bucket/x.txt", __file__])


def test_a_file_far_away_is_read_in_ranges(tmp_path: Path) -> None:
    content = "".join(f"line {number}\n" for number in range(500)).encode()
    path = tmp_path / "in.txt"
    path.write_bytes(content)
    # TensorFlow's file systems read it, as they read gs:// and s3://.
    far = SplitPlan([f"file://{path}"], 900)
    near = SplitPlan([str(path)], 900)
    assert len(far) == 5
    for one, other in zip(far, near, strict=True):
        assert (one.num_lines, one.num_bytes, one.crc) == (
            *(other.num_lines, other.num_bytes),
            other.crc,
        )
        check_bytes(one)
        texts = [example.text_a for example in read([one.split])]
        assert texts == [example.text_a for example in read([other.split])]
