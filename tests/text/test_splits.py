"""Shards, laid end to end, are the input: every line once, under its own index."""

import gzip
import itertools
import random
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from absl import logging

from bert_extract.errors import InputError, OptionsError
from bert_extract.text.examples import Example
from bert_extract.text.splits import (
    SplitReader,
    check_shards,
    count_lines,
    input_size,
    plan_splits,
)
from support.reference_tokenizer import read_lines


def read(
    paths: Sequence[Path], shard: tuple[int, int] | None = None, num_skipped: int = 0
) -> list[Example]:
    splits = plan_splits([str(path) for path in paths], shard)
    return list(SplitReader(splits, "strict", num_skipped))


def read_shards(paths: Sequence[Path], num_shards: int) -> list[list[Example]]:
    return [read(paths, (index, num_shards)) for index in range(num_shards)]


def texts(examples: Sequence[Example]) -> list[str]:
    return [str(example.text_a) for example in examples]


def random_content(rng: random.Random) -> bytes:
    """Blank lines, CR, long lines; with or without a last newline."""
    pieces = [
        b"x" * rng.choice([0, 0, 1, 2, 5, 40]) + rng.choice([b"\n", b"\r\n", b"\n\n"])
        for _ in range(rng.randrange(8))
    ]
    pieces.append(rng.choice([b"", b"", b"last", b"\r", b"\r\r", b"\n"]))
    return b"".join(pieces)


def write_files(folder: Path, contents: Sequence[bytes], zipped: int) -> list[Path]:
    """Writes files; bit i of `zipped` says whether file i is compressed."""
    paths = []
    for number, content in enumerate(contents):
        path = folder / f"{number}.txt"
        if zipped >> number & 1:
            path = folder / f"{number}.txt.gz"
            content = gzip.compress(content)
        path.write_bytes(content)
        paths.append(path)
    return paths


@pytest.mark.parametrize("seed", range(60))
def test_shards_are_the_single_run(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    contents = [random_content(rng) for _ in range(rng.randrange(1, 5))]
    paths = write_files(tmp_path, contents, rng.randrange(16) * (seed % 2))
    whole = read(paths)
    lines = [line for content in contents for line in read_lines(content)]
    assert texts(whole) == [line.strip() for line in lines]
    assert [example.unique_id for example in whole] == list(range(len(whole)))
    for num_shards in (1, 2, 3, 4, 7, 50, 1000):
        shards = read_shards(paths, num_shards)
        assert list(itertools.chain(*shards)) == whole


def test_every_shard_of_every_cut_of_a_small_file(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    for parts in itertools.product([b"\n", b"a", b"\r"], repeat=5):
        path.write_bytes(b"".join(parts))
        whole = read([path])
        assert texts(whole) == read_lines(path.read_bytes())
        for num_shards in range(1, 8):
            shards = itertools.chain(*read_shards([path], num_shards))
            assert [line[:3] for line in shards] == [line[:3] for line in whole]


def test_the_last_line_of_a_file_is_not_joined_to_the_next(tmp_path: Path) -> None:
    paths = write_files(tmp_path, [b"a\nb", b"c\n", b"", b"d"], 0)
    assert texts(read(paths)) == ["a", "b", "c", "d"]
    assert texts(list(itertools.chain(*read_shards(paths, 3)))) == ["a", "b", "c", "d"]


def test_shards_are_equal_in_bytes(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(b"ninebytes\n" * 1000)
    assert [len(shard) for shard in read_shards([path], 4)] == [250] * 4


def test_a_line_belongs_to_the_shard_of_its_first_byte(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(b"aaaaaa\nbb\n")  # the cut of two halves is inside the a's
    assert [texts(shard) for shard in read_shards([path], 2)] == [["aaaaaa"], ["bb"]]
    path.write_bytes(b"aaaaaaaaa\nb\n")
    assert [texts(s) for s in read_shards([path], 3)] == [["aaaaaaaaa"], [], ["b"]]


def random_gzip(path: Path, num_bytes: int) -> Path:
    """Writes a line that takes about so many compressed bytes."""
    text = random.Random(num_bytes).randbytes(num_bytes).hex().encode()
    path.write_bytes(gzip.compress(text + b"\n"))
    return path


def test_a_compressed_file_goes_whole_to_one_shard(tmp_path: Path) -> None:
    zipped = random_gzip(tmp_path / "b.txt.gz", 6000)
    plain = tmp_path / "a.txt"
    plain.write_bytes(b"a\n" * 10)
    assert [len(shard) for shard in read_shards([plain, zipped], 2)] == [10, 1]
    assert [len(shard) for shard in read_shards([zipped, plain], 2)] == [1, 10]
    shards = read_shards([zipped, plain], 3)
    assert [len(shard) for shard in shards] == [1, 1, 9]
    assert [example.unique_id for example in shards[2]] == list(range(2, 11))


@pytest.mark.parametrize("seed", range(8))
def test_as_many_compressed_files_as_shards_give_each_one(
    tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    # As `split` and gzip make them, or of any sizes.
    most = (1050, 20_000)[seed % 2]
    paths = [
        random_gzip(tmp_path / f"{n:02}.gz", rng.randrange(1000, most))
        for n in range(12)
    ]
    paths[3].write_bytes(b"")  # it is no piece
    for num_shards in range(1, 12):
        shards = read_shards(paths, num_shards)
        assert all(shards)
        assert len([*itertools.chain(*shards)]) == 11
    if seed % 2 == 0:
        assert [len(shard) for shard in read_shards(paths[4:], 4)] == [2] * 4


def shards_of(paths: Sequence[Path], shard: tuple[int, int]) -> None:
    check_shards([str(path) for path in paths], shard)


def test_more_shards_than_can_have_something_are_refused(tmp_path: Path) -> None:
    zipped = [random_gzip(tmp_path / f"{n}.gz", 500) for n in range(3)]
    (tmp_path / "empty.gz").write_bytes(b"")
    (tmp_path / "plain").write_bytes(b"a\nb\n")
    message = (
        r"--shard=0/2: the input cannot be shared among so many: .*0\.gz is "
        r"compressed, and such a file cannot be cut\. Decompress it, or split it into "
        r"at least 2 files$"
    )
    for index in range(2):
        with pytest.raises(OptionsError, match=message.replace("0/2", f"{index}/2")):
            shards_of(zipped[:1], (index, 2))
    with pytest.raises(OptionsError, match=r"at least 4 files, or make 3 shards$"):
        shards_of([*zipped, tmp_path / "empty.gz"], (3, 4))
    shards_of(zipped, (2, 3))
    shards_of([tmp_path / "empty.gz"], (0, 1))
    shards_of([tmp_path / "empty.gz", tmp_path / "plain"], (0, 9))  # nothing to cut
    shards_of([zipped[0], tmp_path / "plain"], (1, 2))
    shards_of([tmp_path / "plain"], (99, 100))  # each can be cut as it is


def test_a_shard_that_is_much_too_large_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = (100, 100, 100, 5000)
    paths = [random_gzip(tmp_path / f"{n}.gz", size) for n, size in enumerate(sizes)]
    told: list[str] = []
    monkeypatch.setattr(
        logging, "warning", lambda text, *args: told.append(text % args)
    )
    for index in range(3):
        shards_of(paths, (index, 4))
    assert told == []
    shards_of(paths, (3, 4))
    (warning,) = told
    assert warning.startswith("--shard=3/4 has 9")
    assert " % of the input's bytes: compressed files cannot be cut" in warning


def test_more_shards_than_bytes_are_mostly_empty(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(b"a\nb")
    shards = read_shards([path], 10)
    assert sum(map(len, shards)) == 2
    path.write_bytes(b"")
    assert read_shards([path], 3) == [[], [], []]


@pytest.mark.parametrize("shard", [None, (0, 2), (1, 2)])
def test_lines_that_are_skipped_are_not_decoded(
    tmp_path: Path, shard: tuple[int, int] | None
) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(b"\xff\nb\nc\n\xff\ne\nf\n")
    if shard is None:
        with pytest.raises(InputError, match="line 4 is not UTF-8"):
            read([path], None, 1)
        rest = read([path], None, 4)
    else:
        rest = read([path], shard, 1)
    expected = {None: [(4, "e"), (5, "f")], (0, 2): [(1, "b"), (2, "c")]}.get(
        shard, [(4, "e"), (5, "f")]
    )
    assert [(example.unique_id, example.text_a) for example in rest] == expected


def test_a_bad_line_is_named_by_its_number_in_its_file(tmp_path: Path) -> None:
    paths = write_files(tmp_path, [b"a\nb\n", b"c\nd\n\xff\n"], 0)
    for shard in (None, (1, 2)):
        with pytest.raises(InputError, match=r"1\.txt: line 3 is not UTF-8"):
            read(paths, shard)


def test_how_much_was_read_follows_the_lines(tmp_path: Path) -> None:
    paths = write_files(tmp_path, [b"nine byte\n" * 100, b"nine byte\n" * 50], 0)
    splits = plan_splits([str(path) for path in paths], None)
    assert input_size(splits) == 1500
    reader = SplitReader(splits, "strict", num_skipped=30)
    examples = iter(reader)
    for _ in range(90):
        next(examples)
    assert reader.num_bytes_of(120) == 1200
    assert reader.num_bytes_of(40) == 400


@pytest.mark.parametrize("end", range(8))
def test_lines_are_counted_by_where_they_start(tmp_path: Path, end: int) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(b"ab\n\nc\nd")  # lines start at 0, 3, 4 and 6
    assert count_lines(str(path), end) == sum(start < end for start in (0, 3, 4, 6))


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz"])
@pytest.mark.parametrize(
    ("content", "num_lines"),
    [
        *((b"\r", 0), (b"\r\r\r", 0), (b"\r\n", 1), (b"the\n\r", 1)),
        *((b"the\n\r ", 2), (b"the\n \r", 2), (b"the\r", 1), (b"a\n\rb\n\rc\n\r", 3)),
        (b"the\n" + b"\r" * (5 << 20), 1),
    ],
)
def test_only_crs_behind_the_last_newline_are_no_line(
    tmp_path: Path, content: bytes, num_lines: int, suffix: str
) -> None:
    path = tmp_path / f"in{suffix}"
    path.write_bytes(gzip.compress(content) if suffix == ".txt.gz" else content)
    assert len(read([path])) == num_lines
    # Where its lines start, another file's go on; and from there it may be resumed.
    (tmp_path / "next.txt").write_bytes(b"next")
    *_, last = read([path, tmp_path / "next.txt"])
    assert last[:3] == (num_lines, "next", None)
    assert count_lines(str(path), path.stat().st_size) == num_lines
    shards = read_shards([path, tmp_path / "next.txt"], 3)
    assert [example.unique_id for example in itertools.chain(*shards)] == [
        *range(num_lines + 1)
    ]


def test_what_stands_before_a_shard_is_counted_at_disk_speed(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(b"a line of thirty-two characters\n" * (1 << 21))  # 64 MB
    start = time.process_time()
    (split,) = plan_splits([str(path)], (3, 4))
    assert split.first_index == 3 << 19
    assert time.process_time() - start < 1  # of CPU; reading lines takes several


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.txt: cannot read it: No such file"):
        plan_splits([str(tmp_path / "no.txt")], (0, 2))
