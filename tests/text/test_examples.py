"""What a line is, what a pair is, and which files an --input_file names."""

import bz2
import gzip
import lzma
import os
import sys
import tracemalloc
from pathlib import Path
from typing import IO

import pytest
import zstandard

from bert_extract.errors import InputError
from bert_extract.text import examples
from bert_extract.text.examples import (
    LineReader,
    expand_input_files,
    is_unsplit_pair,
    parse_line,
    read_example,
)


@pytest.mark.parametrize(
    ("line", "text_a", "text_b"),
    [
        ("", "", None),
        ("  \t ", "", None),
        ("who ?", "who ?", None),
        ("a ||| b", "a", "b"),
        ("  a ||| b  ", "a", "b"),
        # Exactly one space on each side.
        ("a|||b", "a|||b", None),
        ("a ||| ", "a |||", None),
        (" ||| b", "||| b", None),
        (" ||| ", "|||", None),
        ("|||", "|||", None),
        ("a |||b", "a |||b", None),
        ("a||| b", "a||| b", None),
        ("a |||| b", "a |||| b", None),
        ("a\t|||\tb", "a\t|||\tb", None),
        ("a\u00a0|||\u00a0b", "a\u00a0|||\u00a0b", None),
        ("a  |||  b", "a ", " b"),
        # Greedy: the last separator wins.
        ("a ||| b ||| c", "a ||| b", "c"),
        ("a ||| ||| b", "a |||", "b"),
        ("a ||| |||", "a", "|||"),
        # Every CR goes, wherever it stands.
        ("a\rb\r", "ab", None),
        ("a |\r|| b", "a", "b"),
        # Other line ends of Unicode are part of the line, and stripped at its ends.
        ("a\u2028b\x0bc\x1c", "a\u2028b\x0bc", None),
        ("\u3000a\x85", "a", None),
        # A BOM is no whitespace; the tokenizer drops it.
        ("\ufeffa", "\ufeffa", None),
        ("a\0b ||| \0", "a\0b", "\0"),
        ("x\x0b ||| y\x0cz", "x\x0b", "y\x0cz"),
    ],
)
def test_a_line_is_read_as_the_original_reads_it(
    line: str, text_a: str, text_b: str | None
) -> None:
    assert parse_line(line, unique_id=7)[:3] == (7, text_a, text_b)


@pytest.mark.parametrize("line", ["a ||| b", " a ||| b ||| c\r", "a|||b", "|||", ""])
def test_without_pairs_a_line_is_one_text(line: str) -> None:
    text = line.strip()
    assert parse_line(line, 7, pairs=False)[:3] == (7, text, None)
    example = read_example(line.encode(), "strict", "in.txt", 8, 7, pairs=False)
    assert example[:3] == (7, text, None)


@pytest.mark.parametrize(
    ("line", "unsplit"),
    [("a |||b", True), ("|||", True), ("a ||| b", False), ("a || b", False)],
)
def test_bars_that_did_not_split_are_noticed(line: str, unsplit: bool) -> None:
    assert is_unsplit_pair(parse_line(line, 0)) is unsplit


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"\n", [b""]),
        (b"a", [b"a"]),
        (b"a\n", [b"a"]),
        (b"a\n\nb", [b"a", b"", b"b"]),
        (
            b"a\r\nb\x0bc\x0cd\xe2\x80\xa8e\x85",
            [b"a\r", b"b\x0bc\x0cd\xe2\x80\xa8e\x85"],
        ),
        (b"\0\n\0", [b"\0", b"\0"]),
    ],
)
@pytest.mark.parametrize("suffix", ["txt", "gz"])
def test_only_a_newline_ends_a_line(
    tmp_path: Path, content: bytes, lines: list[bytes], suffix: str
) -> None:
    path = tmp_path / f"input.{suffix}"
    path.write_bytes(gzip.compress(content) if suffix == "gz" else content)
    reader = LineReader(str(path))
    assert list(reader) == lines
    if suffix == "txt":
        assert reader.num_bytes_read == len(content)


def test_a_line_may_be_longer_than_any_buffer(tmp_path: Path) -> None:
    path = tmp_path / "input.txt"
    path.write_bytes(b"x" * 3_000_000 + b"\n" + b"y" * 1_500_000)
    assert [len(line) for line in LineReader(str(path))] == [3_000_000, 1_500_000]


def test_gzip_members_follow_each_other(tmp_path: Path) -> None:
    path = tmp_path / "input.gz"
    path.write_bytes(gzip.compress(b"a\nb") + gzip.compress(b"c\n"))
    assert list(LineReader(str(path))) == [b"a", b"bc"]


@pytest.mark.parametrize("start", range(8))
@pytest.mark.parametrize("end", [0, 1, 3, 4, 7, None])
def test_a_part_has_the_lines_whose_first_byte_is_in_it(
    tmp_path: Path, start: int, end: int | None
) -> None:
    path = tmp_path / "input.txt"
    path.write_bytes(b"ab\n\nc\nd")  # lines start at 0, 3, 4 and 6
    starts = {0: b"ab", 3: b"", 4: b"c", 6: b"d"}
    stop = 8 if end is None else end
    expected = [line for s, line in starts.items() if start <= s < stop]
    assert list(LineReader(str(path), start, end)) == expected


def test_a_line_that_is_not_utf8_is_named() -> None:
    with pytest.raises(InputError, match=r"x\.txt: line 3 is not UTF-8: byte 0xe4 at"):
        read_example(b"M\xe4rz", "strict", "x.txt", 3, 0)


@pytest.mark.parametrize(
    ("errors", "text"), [("replace", "M\ufffdrz"), ("ignore", "Mrz")]
)
def test_bytes_that_are_not_utf8_can_be_passed_over(errors: str, text: str) -> None:
    assert read_example(b"M\xe4rz", errors, "x.txt", 3, 0)[:3] == (0, text, None)


def test_half_a_surrogate_pair_is_not_utf8() -> None:
    with pytest.raises(InputError, match="line 1 is not UTF-8"):
        read_example(b"\xed\xa0\x80", "strict", "x.txt", 1, 0)


# ------------------------------------------------------------------- --input_file


@pytest.fixture
def text_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a.txt", "b.txt", "B.txt", "ä.txt", "c,d.txt", "[x]*.txt", "n.log"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("input_file", "paths"),
    [
        ("-", ("-",)),
        ("a.txt", ("a.txt",)),
        ("b.txt,a.txt,b.txt", ("b.txt", "a.txt", "b.txt")),
        # The name of an existing file is that file, whatever is in it.
        ("c,d.txt", ("c,d.txt",)),
        ("[x]*.txt", ("[x]*.txt",)),
        ("a.txt,[x]*.txt", ("a.txt", "[x]*.txt")),
        # Sorted by bytes: capitals first, then small letters, then the rest.
        ("?.txt", ("B.txt", "a.txt", "b.txt", "ä.txt")),
        ("[ab].txt,n.*", ("a.txt", "b.txt", "n.log")),
    ],
)
def test_names_commas_and_globs(
    text_dir: Path, input_file: str, paths: tuple[str, ...]
) -> None:
    assert expand_input_files(input_file) == paths


@pytest.mark.parametrize(
    ("input_file", "message"),
    [
        ("none.txt", "none.txt: no such file"),
        ("a.txt,none.txt", "none.txt: no such file"),
        ("x*.txt", "x*.txt: no file matches this pattern"),
        ("a.txt,", "no such file"),
        ("a.txt,-", "standard input cannot be one of several files"),
    ],
)
def test_a_name_that_finds_nothing_is_an_error(
    text_dir: Path, input_file: str, message: str
) -> None:
    with pytest.raises(InputError) as raised:
        expand_input_files(input_file)
    assert message in str(raised.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read it: Is a directory"):
        list(LineReader(str(tmp_path)))
    missing = tmp_path / "none.txt"
    with pytest.raises(InputError, match=f"{missing}: cannot read it: No such file"):
        list(LineReader(str(missing)))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    path = tmp_path / "secret.txt"
    path.touch(0o000)
    with pytest.raises(InputError, match=f"{path}: cannot read it: Permission denied"):
        list(LineReader(str(path)))


@pytest.mark.parametrize(
    "content",
    [
        b"plain text\n",
        gzip.compress(b"a\n" * 1000, mtime=0)[:-9],
        gzip.compress(b"a\nb\n", mtime=0)[:-8] + b"12345678",
    ],
    ids=["not gzip", "cut off", "wrong checksum"],
)
def test_a_broken_gzip_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "input.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{path}: not a whole gzip file"):
        list(LineReader(str(path)))


def zstandard_frames(*texts: bytes) -> bytes:
    return b"".join(map(zstandard.ZstdCompressor().compress, texts))


def test_zstandard_files_are_read_like_gzip_files(tmp_path: Path) -> None:
    """Several frames, an empty one, a line that goes on in the next, no last LF."""
    path = tmp_path / "input.txt.zst"
    path.write_bytes(
        zstandard_frames(b"a\nb", b"", b"c\n\n", b"x" * 3_000_000 + b"\ny")
    )
    reader = LineReader(str(path))
    assert list(reader) == [b"a", b"bc", b"", b"x" * 3_000_000, b"y"]
    assert reader.num_bytes_read == path.stat().st_size
    path.write_bytes(b"")
    assert list(LineReader(str(path))) == []
    assert expand_input_files(str(tmp_path / "*.zst")) == (str(path),)


def test_zstandard_files_of_long_windows_are_read(tmp_path: Path) -> None:
    """As "zstd --long=28" makes them; by default the library takes 128 MB."""
    path = tmp_path / "input.zst"
    parameters = zstandard.ZstdCompressionParameters(window_log=28)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    path.write_bytes(compressor.compress(b"a\nb\n") + compressor.flush())
    assert list(LineReader(str(path))) == [b"a", b"b"]


def test_zeros_that_zstandard_made_small_take_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "input.zst"
    path.write_bytes(zstandard_frames(bytes((1 << 16) - 1) + b"\n") * 2000)
    assert path.stat().st_size < 100_000
    tracemalloc.start()
    assert sum(1 for _ in LineReader(str(path))) == 2000  # 131 MB
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24 << 20


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (zstandard_frames(b"a\n" * 1000)[:-3], "it ends within a frame"),
        (zstandard_frames(b"a\n") + b"plain text", "Unknown frame descriptor"),
        (b"plain text\n", "Unknown frame descriptor"),
    ],
    ids=["cut off", "text behind", "text"],
)
def test_a_broken_zstandard_file_is_named(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "input.zst"
    path.write_bytes(content)
    with pytest.raises(InputError) as raised:
        list(LineReader(str(path)))
    assert f"{path}: not a whole Zstandard file: " in str(raised.value)
    assert reason in str(raised.value)


def test_zstandard_needs_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "input.zst"
    path.write_bytes(zstandard_frames(b"a\n"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"is not installed: pip install zstandard"):
        list(LineReader(str(path)))


@pytest.mark.parametrize("is_from_pipe", [False, True])
@pytest.mark.parametrize(
    ("content", "found", "way_out"),
    [
        (
            gzip.compress(b"the\n", mtime=0),
            "a gzip file",
            "gzip -dc FILE | bert-extract",
        ),
        (zstandard_frames(b"the\n"), "a Zstandard file", "or call it FILE.zst"),
        (bz2.compress(b"the\n"), "a bzip2 file", "bzip2 -dc FILE | bert-extract"),
        (bz2.compress(b""), "a bzip2 file", "bzip2 -dc FILE"),
        (lzma.compress(b"the\n"), "an xz file", "xz -dc FILE"),
        (b"PK\x03\x04\x14\0", "a zip file", "unpack it"),
        ("the\n".encode("utf-16"), "text in UTF-16", "iconv -f UTF-16 -t UTF-8"),
        (b"\xfe\xff\0t", "text in UTF-16", "iconv -f UTF-16"),
        ("the\n".encode("utf-32"), "text in UTF-32", "iconv -f UTF-32"),
    ],
)
def test_what_is_no_text_is_called_what_it_is(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    found: str,
    way_out: str,
    is_from_pipe: bool,
) -> None:
    path = tmp_path / "input.txt"
    path.write_bytes(content)
    name = str(path)
    if is_from_pipe:
        name = "standard input"
        monkeypatch.setattr(examples, "open_raw", lambda path: pipe_of(content))
    reader = LineReader("-" if is_from_pipe else str(path))
    with pytest.raises(InputError) as raised:
        list(reader)
    assert str(raised.value).startswith(
        f"{name}: expected text in UTF-8; found {found}: "
    )
    assert way_out in str(raised.value)
    monkeypatch.undo()
    # So is what comes out of a compressed file.
    packed = tmp_path / "input.txt.gz"
    packed.write_bytes(gzip.compress(content))
    with pytest.raises(InputError, match=f"{packed}: expected text in .* {found}"):
        list(LineReader(str(packed)))
    # And where a shard begins does not matter.
    with pytest.raises(InputError, match=f"found {found}"):
        list(LineReader(str(path), start=2))


def pipe_of(content: bytes) -> IO[bytes]:
    reader, writer = os.pipe()
    os.write(writer, content)
    os.close(writer)
    return open(reader, "rb", buffering=1 << 20)


@pytest.mark.parametrize(
    "text", ["BZhou was here", "BZh91", "PK", "\ufeffthe", "\x1f", "þÿ", ""]
)
def test_text_that_begins_like_no_text_is_text(tmp_path: Path, text: str) -> None:
    path = tmp_path / "input.txt"
    path.write_text(text + "\n", encoding="utf-8")
    assert list(LineReader(str(path))) == [text.encode()]


def test_a_closed_standard_input_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # as Python has it after <&-
    with pytest.raises(InputError, match="standard input: cannot read it: it is cl"):
        list(LineReader("-"))
