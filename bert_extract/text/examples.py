"""Text -> Example: what a line is, and what a pair is."""

import contextlib
import errno
import gzip
import os
import re
import reprlib
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bert_extract.errors import ArgumentTypeError, InputError, InputReadError
from bert_extract.files import expand, is_remote, open_file
from bert_extract.text.unpacking import is_compressed, open_text

# A line as an input file has it, or a pair.
Line = str | tuple[str, str]

STDIN = "-"
_SEPARATOR = " ||| "
_RETURN = re.compile("\r")
# One read of a text file, in bytes.
_BLOCK_SIZE = 1 << 20


class Example(NamedTuple):
    """One line of the input; a tuple, as `Features` is and for the same reason."""

    unique_id: int  # the line's index in the whole input, from 0
    text_a: str
    text_b: str | None  # what follows " ||| ", if the line is a pair
    # How many characters of the line stand before text_a; without CRs, if those are
    # told below.
    start: int = 0
    # int64 [num_returns]: how many other characters stand before each CR of the line;
    # None if there are none between the first and the last character of the texts.
    others_before_returns: NDArray[np.int64] | None = None

    def raw_positions(
        self, text: Literal["a", "b"], positions: NDArray[np.int64], is_end: bool
    ) -> NDArray[np.int64]:
        """Finds where characters of a text stand in the line as it is in the file.

        Args:
          text: whether they are characters of text_a or of text_b.
          positions: int64, in characters of that text.
          is_end: the positions are one behind a last character.

        Returns:
          int64, the same in characters of the line.
        """
        positions = positions + self.start
        if text == "b":
            positions += len(self.text_a) + len(_SEPARATOR)
        if self.others_before_returns is None:
            return positions
        # An end goes with the character before it: a CR behind that lies outside.
        return positions + np.searchsorted(
            self.others_before_returns, positions - is_end, side="right"
        )


def parse_line(line: str, unique_id: int, pairs: bool = True) -> Example:
    r"""Reads one line as the original's `read_examples` does.

    Every CR is dropped wherever it stands, whitespace at both ends too, and the last
    " ||| " (with exactly these spaces) separates a pair:
    "a ||| b ||| c" -> ("a ||| b", "c"), "a |||b" -> ("a |||b", None).

    Args:
      line: the line without its "\n".
      unique_id: the line's index in the whole input.
      pairs: whether " ||| " separates; else the line is one text, whatever it holds.
    """
    text = line.strip()
    start = 0
    if len(text) != len(line):
        # The first character that is not whitespace stands where it is found first.
        start = line.find(text[:1])
    others_before = None
    if "\r" in text:
        others_before = _others_before_returns(line)
        start -= line.count("\r", 0, start)
        del line  # it may be long, and one copy of it is enough
        text = text.replace("\r", "")
    # The original's regular expression is greedy: the last separator wins.
    text_a, separator, text_b = text.rpartition(_SEPARATOR)
    if not (separator and pairs):
        return Example(unique_id, text, None, start, others_before)
    return Example(unique_id, text_a, text_b, start, others_before)


def to_pair(text_a: str, text_b: str, unique_id: int) -> Example:
    """Makes an example of two texts that are known, whatever bars they hold.

    It is what `parse_line` makes of "text_a ||| text_b", positions in that line
    included, but for where the line would be separated.

    Args:
      text_a: the first text.
      text_b: the second one.
      unique_id: the pair's index in the whole input.
    """
    stripped_a, stripped_b = text_a.lstrip(), text_b.rstrip()
    start = len(text_a) - len(stripped_a)
    others_before = None
    if "\r" in stripped_a or "\r" in stripped_b:
        others_before = _others_before_returns(f"{text_a}{_SEPARATOR}{text_b}")
        start -= text_a.count("\r", 0, start)
        stripped_a = stripped_a.replace("\r", "")
        stripped_b = stripped_b.replace("\r", "")
    return Example(unique_id, stripped_a, stripped_b, start, others_before)


def to_example(line: Line, unique_id: int, pairs: bool = True) -> Example:
    """Makes an example of what the Python API takes.

    Args:
      line: a line as an input file has it; or a tuple, which is a pair.
      unique_id: its index in the whole input.
      pairs: whether " ||| " separates in a line.

    Raises:
      ArgumentTypeError: it is neither.
    """
    if isinstance(line, str):
        return parse_line(line, unique_id, pairs)
    if isinstance(line, tuple) and len(line) == 2:
        text_a, text_b = line
        if isinstance(text_a, str) and isinstance(text_b, str):
            return to_pair(text_a, text_b, unique_id)
    raise ArgumentTypeError(
        "expected texts of the type str, and pairs of them as tuples (text_a, "
        f"text_b); that of index {unique_id} is {reprlib.repr(line)} "
        f"({type(line).__name__})"
    )


def _others_before_returns(line: str) -> NDArray[np.int64]:
    r"""For each CR of a line, how many other characters stand before it.

    "\ra\r\rb" -> [0, 1, 1]
    """
    positions = np.fromiter(
        (found.start() for found in _RETURN.finditer(line)), np.int64
    )
    return positions - np.arange(len(positions))


def is_unsplit_pair(example: Example) -> bool:
    """Whether the line holds "|||" and is one text all the same, most likely a slip."""
    return example.text_b is None and "|||" in example.text_a


def expand_input_files(
    input_file: str, is_left_out: Callable[[str], bool] = lambda path: False
) -> tuple[str, ...]:
    """Finds the files that a value of `--input_file` names.

    Args:
      input_file: "-", the name of an existing file, or names and globs separated by
        commas.
      is_left_out: which files are meant by no glob; who names them gets them.

    Returns:
      The files in the order in which they are read; a glob's are sorted by bytes.

    Raises:
      InputError: there is no such file, or a glob matches nothing.
    """
    if input_file == STDIN or (
        not is_remote(input_file) and os.path.exists(input_file)
    ):
        return (input_file,)
    paths: list[str] = []
    for name in input_file.split(","):
        if name == STDIN:
            raise InputError(
                f"{input_file}: standard input cannot be one of several files; "
                "join them first, as in 'cat a.txt - | bert-extract --input_file=-'"
            )
        paths.extend(_expand_name(name, is_left_out))
    return tuple(paths)


def _expand_name(name: str, is_left_out: Callable[[str], bool]) -> list[str]:
    is_glob = any(character in name for character in "*?[")
    try:
        paths = expand(name)
    except OSError as error:
        raise InputError(f"{name}: cannot look for it: {error.strerror}") from error
    if is_glob and paths != [name]:
        matched, paths = paths, [path for path in paths if not is_left_out(path)]
        if matched and not paths:
            raise InputError(
                f"{name}: this tool wrote everything that matches this pattern, "
                f"such as {matched[0]}; name the file if it is the text to read"
            )
    if not paths:
        raise InputError(
            f"{name}: no file matches this pattern"
            if is_glob
            else f"{name}: no such file"
        )
    return paths


def open_raw(path: str) -> IO[bytes]:
    """Opens the bytes of an input as they lie on the disk; the caller closes it."""
    if path == STDIN:
        if sys.stdin is None:  # a shell's <&-; another file may have its number
            raise OSError(errno.EBADF, "it is closed")
        # Not closed with the reader: it belongs to the process.
        return open(0, "rb", buffering=_BLOCK_SIZE, closefd=False)
    return open_file(path, _BLOCK_SIZE)


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Turns what can go wrong while reading an input into an `InputError`."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path}: not a whole gzip file: {error}. Get a whole one ('gzip -t' "
            "checks it) and run again without --resume, which only goes on with the "
            "very same input"
        ) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputReadError(f"{name_of(path)}: cannot read it: {reason}") from error


def name_of(path: str) -> str:
    """The path as messages show it."""
    return "standard input" if path == STDIN else path


class Watch(Protocol):
    """Who is told of a file that is read, and may raise an `InputError`."""

    def begin(self, path: str, opened: IO[bytes]) -> None:
        """It was opened."""
        ...

    def end(self, path: str) -> None:
        """All of it was read that will be."""
        ...


def is_only_returns(block: bytes) -> bool:
    r"""Whether there is nothing in it but CRs.

    Such a line can only be a file's last one, which no "\n" ends. It is none: the
    original drops the CRs, and what is empty then is the end of the file to it.
    """
    return block.endswith(b"\r") and block.count(b"\r") == len(block)


class LineReader:
    r"""The lines of one file, lazily; only "\n" ends a line.

    What stands behind the last "\n" is a line too, unless it is nothing but CRs.

    Attributes:
      num_bytes_read: how much of the file on the disk has been read.
    """

    def __init__(
        self,
        path: str,
        start: int = 0,
        end: int | None = None,
        watch: Watch | None = None,
    ) -> None:
        """Makes a reader of the lines whose first byte is in [start, end).

        Args:
          path: a file; one that is compressed is only read whole.
          start: an offset in bytes, anywhere in a line.
          end: an offset in bytes; None is the end of the file.
          watch: is told when the file is opened, and when the last line was read.
        """
        self.num_bytes_read = 0
        self._path = path
        self._start = start
        self._end = end
        self._watch = watch

    def __iter__(self) -> Iterator[bytes]:
        r"""Yields each line without its "\n".

        Raises:
          InputError: the file cannot be opened or read, or the watch refuses it.
        """
        with reading(self._path), open_raw(self._path) as raw:
            if self._watch is not None:
                self._watch.begin(self._path, raw)
            yield from self._lines_of(raw)
            if self._watch is not None:
                self._watch.end(self._path)

    def _lines_of(self, raw: IO[bytes]) -> Iterator[bytes]:
        if is_compressed(self._path):
            with open_text(self._path, name_of(self._path), raw) as text:
                for line in text:
                    self.num_bytes_read = raw.tell()
                    if is_only_returns(line):
                        return
                    lines = [line.removesuffix(b"\n")]
                    del line
                    yield lines.pop()
            return
        open_text(self._path, name_of(self._path), raw)  # which is raw itself
        position = 0
        if self._start:
            # The line before ends at the first newline from start - 1 on.
            raw.seek(self._start - 1)
            position = self._start - 1 + len(raw.readline())
        for line in raw:
            if self._end is not None and position >= self._end:
                return
            position += len(line)
            self.num_bytes_read = position - self._start
            if is_only_returns(line):
                return
            # Not kept here while the caller works on it: it may be long.
            lines = [line.removesuffix(b"\n")]
            del line
            yield lines.pop()


def read_example(
    line: bytes,
    errors: str,
    path: str,
    line_number: int,
    unique_id: int,
    pairs: bool = True,
) -> Example:
    """Decodes one line of UTF-8 and reads it.

    Args:
      line: its bytes, without the newline.
      errors: "strict", "replace" or "ignore", as Python names them.
      path: the file, for the message.
      line_number: the line in that file, from 1, for the message.
      unique_id: the line's index in the whole input.
      pairs: whether " ||| " separates two texts.

    Raises:
      InputError: errors is "strict" and the line is not UTF-8.
    """
    try:
        # A CR at the end, and what else is stripped anyway, is cheaper gone as bytes.
        return parse_line(line.rstrip().decode("utf-8", errors), unique_id, pairs)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name_of(path)}: line {line_number} is not UTF-8: byte "
            f"0x{line[error.start]:02x} at position {error.start} of the line "
            f"({error.reason}). Convert the file to UTF-8, or say --errors=replace or "
            "--errors=ignore"
        ) from error
