"""The bytes of an input on the disk -> the bytes of its text.

What is compressed says so by its name. What says so by its first bytes alone, or is
text in another encoding, is refused by name: it would give line after line of rubbish.
"""

import gzip
import importlib.util
import io
from collections.abc import Callable
from typing import IO, Any, cast

from bert_extract.errors import InputError

GZIP_SUFFIX = ".gz"
ZSTANDARD_SUFFIX = ".zst"

_GZIP = b"\x1f\x8b"
_ZSTANDARD = b"\x28\xb5\x2f\xfd"
_UNPACK = "unpack it, as in '{} -dc FILE | bert-extract --input_file=- ...'"
_CONVERT = "convert it, as in 'iconv -f {} -t UTF-8 FILE > FILE.txt'"
# How it begins -> what it is, and the way out. UTF-32 may begin as UTF-16 does.
_NO_TEXT = (
    (_GZIP, "a gzip file", _UNPACK.format("gzip") + ", or call it FILE.gz"),
    (_ZSTANDARD, "a Zstandard file", _UNPACK.format("zstd") + ", or call it FILE.zst"),
    (b"BZh", "a bzip2 file", _UNPACK.format("bzip2")),
    (b"\xfd7zXZ\0", "an xz file", _UNPACK.format("xz")),
    (b"PK\x03\x04", "a zip file", "unpack it and give the texts in it"),
    (b"\xff\xfe\0\0", "text in UTF-32", _CONVERT.format("UTF-32")),
    (b"\0\0\xfe\xff", "text in UTF-32", _CONVERT.format("UTF-32")),
    (b"\xff\xfe", "text in UTF-16", _CONVERT.format("UTF-16")),
    (b"\xfe\xff", "text in UTF-16", _CONVERT.format("UTF-16")),
)
# What follows upon "BZh" and a digit: pi, or the square root of pi in an empty file.
_BZIP2_BLOCKS = (b"1AY&SY", b"\x17rE8P\x90")
_HEAD_BYTES = 16
# Compressed bytes that are taken at once: what they say may be 100,000 times longer.
_MOST_WINDOW = 1 << 31  # bytes
_STEP = 1024


def is_compressed(path: str) -> bool:
    """Whether a file is read through gzip or Zstandard; its name says it."""
    return path.endswith((GZIP_SUFFIX, ZSTANDARD_SUFFIX))


def open_text(path: str, name: str, raw: IO[bytes]) -> IO[bytes]:
    """Opens the text of an input.

    Args:
      path: the input.
      name: what messages call it.
      raw: its bytes as they lie on the disk, from the first one on.

    Raises:
      InputError: it is another kind of file, or the package that reads it is missing.
        Reading may raise that, too.
    """
    text = _unpacked(path, name, raw) if is_compressed(path) else raw
    found = _no_text(text)
    if found is not None:
        what, way_out = found
        raise InputError(f"{name}: expected text in UTF-8; found {what}: {way_out}")
    return text


def _unpacked(path: str, name: str, raw: IO[bytes]) -> IO[bytes]:
    if path.endswith(GZIP_SUFFIX):
        return cast(IO[bytes], gzip.open(raw, "rb"))
    if importlib.util.find_spec("zstandard") is None:
        raise InputError(
            f"{name}: reading it needs the package zstandard, which is not installed: "
            "pip install zstandard"
        )
    return io.BufferedReader(_ZstandardText(name, raw))


def _no_text(text: IO[bytes]) -> tuple[str, str] | None:
    """What a file is that is no text, and the way out; None if it may be text."""
    if not isinstance(text, (io.BufferedReader, gzip.GzipFile)):
        return None
    # Nothing is taken away: what comes through a pipe cannot be put back.
    head = text.peek(_HEAD_BYTES)
    for beginning, what, way_out in _NO_TEXT:
        if head.startswith(beginning):
            if beginning == b"BZh" and not head[4:].startswith(_BZIP2_BLOCKS):
                return None
            return what, way_out
    return None


class _ZstandardText(io.RawIOBase):
    """What stands in the frames of a Zstandard file, some at a time."""

    def __init__(self, name: str, raw: IO[bytes]) -> None:
        import zstandard  # only these files need it

        self._name = name
        self._raw = raw
        self._failure = zstandard.ZstdError
        self._new_decompressor: Callable[[], Any] = lambda: (
            # As much as the format allows for ("zstd --long=31"); by default 128 MB.
            zstandard.ZstdDecompressor(max_window_size=_MOST_WINDOW).decompressobj()
        )
        self._decompressor = self._new_decompressor()
        self._is_within_frame = False
        self._compressed = b""
        self._text = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._text:
            self._compressed = self._compressed or self._raw.read(_STEP)
            if not self._compressed:
                if self._is_within_frame:
                    raise self._broken("it ends within a frame")
                return 0
            try:
                self._text = memoryview(self._decompressor.decompress(self._compressed))
            except self._failure as error:
                raise self._broken(str(error)) from error
            self._compressed = b""
            self._is_within_frame = not self._decompressor.eof
            if self._decompressor.eof:
                self._compressed = self._decompressor.unused_data
                self._decompressor = self._new_decompressor()
        taken = self._text[: len(buffer)]
        buffer[: len(taken)] = taken
        self._text = self._text[len(taken) :]
        return len(taken)

    def _broken(self, reason: str) -> InputError:
        return InputError(
            f"{self._name}: not a whole Zstandard file: {reason}. Get a whole one "
            "('zstd -t' checks it) and run again without --resume, which only goes on "
            "with the very same input"
        )
