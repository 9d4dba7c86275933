"""Shards, laid end to end, are the input: every line once, under its own index."""

import gzip
import itertools
import random
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from reference_tokenizer import read_lines

from bert_extract.errors import InputError
from bert_extract.examples import Example
from bert_extract.splits import SplitReader, count_lines, input_size, plan_splits


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
            assert list(itertools.chain(*read_shards([path], num_shards))) == whole


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


def test_a_compressed_file_goes_whole_to_the_shard_of_its_first_byte(
    tmp_path: Path,
) -> None:
    rng = random.Random(1)
    line = rng.randbytes(2000).hex().encode() + b"\n"
    zipped = tmp_path / "b.txt.gz"
    zipped.write_bytes(gzip.compress(line * 3))
    plain = tmp_path / "a.txt"
    plain.write_bytes(b"a\n" * 10)
    shards = read_shards([plain, zipped], 3)
    assert [len(shard) for shard in shards] == [13, 0, 0]
    shards = read_shards([zipped, plain], 3)
    assert [len(shard) for shard in shards] == [3, 0, 10]
    assert [example.unique_id for example in shards[2]] == list(range(3, 13))


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
    assert last == Example(num_lines, "next", None)
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
