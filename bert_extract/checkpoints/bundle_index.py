"""PREFIX.index -> what TensorFlow's checkpoint files hold, checked before it is read.

The index is a sorted table of the kind that LevelDB has: blocks of names and entries, a
block of the blocks, and a footer; each block has a checksum. TensorFlow's own reader
ends the process when an entry says what cannot be, so that it gets only entries that
were checked here.
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf.tensor_bundle_pb2 import (
    BundleEntryProto,
    BundleHeaderProto,
)

_FOOTER_LENGTH = 48
_MAGIC = 0xDB4775248B80FB57
# Behind a block: how it is compressed (0: it is not), and its checksum.
_TRAILER_LENGTH = 5
# The names of parts of a variable begin with it; a variable's own name does not.
_PART = b"\0"
_MAX_SHARDS = 100_000
# More have no use. Names share their beginnings with the name before, so that a short
# file may hold many long ones; and sizes, multiplied, could keep a computer busy.
_MAX_NAME_BYTES = 4096
_MAX_AXES = 8


@dataclass(frozen=True, slots=True)
class Entry:
    """What the index says of one variable."""

    shape: tuple[int, ...]
    dtype: str  # as TensorFlow calls it
    shard: int  # number of the data file
    offset: int  # of its bytes there
    num_bytes: int  # there; 0 if it was saved in parts
    has_parts: bool  # whether it was saved in parts, which have names of their own

    @property
    def num_values(self) -> int:
        """By its shape."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Index:
    """A whole index."""

    num_shards: int  # data files
    entries: dict[str, Entry]  # by the name of the variable
    # Where the parts of variables are; nobody asks for them by name.
    parts: tuple[Entry, ...]


def parse_index(content: bytes) -> Index:
    """Reads the content of PREFIX.index.

    Raises:
      ValueError: it is damaged, or says what cannot be.
    """
    num_shards = None
    entries: dict[str, Entry] = {}
    parts = []
    last = None
    for key, value in parse_table(content):
        # TensorFlow finds a name by bisection: it must not find another entry.
        if last is not None and key <= last:
            raise ValueError("its names are not in order")
        last = key
        if num_shards is None:
            num_shards = _num_shards(key, value)
        elif key.startswith(_PART):
            parts.append(_entry("part of a variable", value, num_shards))
        else:
            name = key.decode("utf-8")
            entries[name] = _entry(name, value, num_shards)
    if num_shards is None:
        raise ValueError("it is empty")
    return Index(num_shards, entries, tuple(parts))


def _num_shards(key: bytes, value: bytes) -> int:
    """What the first entry says, which is the header."""
    if key:
        raise ValueError("it has no header")
    num_shards: int = _parse(BundleHeaderProto, value).num_shards
    if not 0 < num_shards <= _MAX_SHARDS:
        raise ValueError(f"it says that there are {num_shards} data files")
    return num_shards


def _entry(name: str, value: bytes, num_shards: int) -> Entry:
    proto = _parse(BundleEntryProto, value)
    if len(proto.shape.dim) > _MAX_AXES:
        raise ValueError(f"{name} has {len(proto.shape.dim)} axes")
    shape = tuple(dim.size for dim in proto.shape.dim)
    try:
        dtype = tf.as_dtype(proto.dtype)
    except TypeError as error:
        raise ValueError(f"{name} is of an unknown type {proto.dtype}") from error
    if min(shape, default=0) < 0 or proto.shape.unknown_rank:
        raise ValueError(f"{name} is of the shape {list(shape)}")
    if not 0 <= proto.shard_id < num_shards or min(proto.offset, proto.size) < 0:
        raise ValueError(f"{name} has an impossible size or position")
    if dtype.size and not proto.slices:
        expected = math.prod(shape) * dtype.size
        if proto.size != expected:
            raise ValueError(f"{name} has {proto.size} bytes, not {expected}")
    return Entry(
        shape=shape,
        dtype=dtype.name,
        shard=proto.shard_id,
        offset=proto.offset,
        num_bytes=proto.size,
        has_parts=bool(proto.slices),
    )


def _parse(message: Any, value: bytes) -> Any:
    try:
        return message.FromString(value)
    except DecodeError as error:
        raise ValueError("it holds something that is not an entry") from error


def parse_table(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields the names and values of a sorted table, in order."""
    if len(content) < _FOOTER_LENGTH:
        raise ValueError("it is too short")
    footer = content[-_FOOTER_LENGTH:]
    if int.from_bytes(footer[-8:], "little") != _MAGIC:
        raise ValueError("it does not end as an index does")
    at = _skip_handle(footer, 0)  # of a block of metadata, which nobody writes
    for _, handle in _block(content, footer, at):
        yield from _block(content, handle, 0)


def _skip_handle(data: bytes, at: int) -> int:
    for _ in range(2):
        _, at = read_varint(data, at)
    return at


def _block(content: bytes, handle: bytes, at: int) -> Iterator[tuple[bytes, bytes]]:
    """Yields the names and values of the block that a handle at `at` points to."""
    start, at = read_varint(handle, at)
    length, at = read_varint(handle, at)
    end = start + length
    if end + _TRAILER_LENGTH > len(content) - _FOOTER_LENGTH:
        raise ValueError("a block of it goes beyond its end")
    compression, checksum = struct.unpack_from("<BI", content, end)
    if checksum != _masked(crc32c(content[start : end + 1])):
        raise ValueError("a block of it does not match its checksum")
    if compression:
        raise ValueError("it is compressed, which TensorFlow's indexes never are")
    # At the end: where each name is whole, for bisection, and how many these are.
    block = content[start:end]
    if length < 4:
        raise ValueError("a block of it is too short")
    num_restarts = int.from_bytes(block[-4:], "little")
    block = block[: length - 4 - 4 * num_restarts]
    if length < 4 + 4 * num_restarts:
        raise ValueError("a block of it is too short")
    at = 0
    name = b""
    while at < len(block):
        num_shared, at = read_varint(block, at)
        num_new, at = read_varint(block, at)
        value_length, at = read_varint(block, at)
        value_start = at + num_new
        if num_shared > len(name) or value_start + value_length > len(block):
            raise ValueError("a name in it goes beyond the end of its block")
        if num_shared + num_new > _MAX_NAME_BYTES:
            raise ValueError(f"a name in it has {num_shared + num_new} bytes")
        name = name[:num_shared] + block[at:value_start]
        at = value_start + value_length
        yield name, block[value_start:at]


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and what follows it."""
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise ValueError("a number in it does not end")


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


_CRC_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    """The checksum of Castagnoli (1993), as iSCSI and SSE 4.2 have it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _masked(crc: int) -> int:
    """As it is stored, so that the checksum of what holds checksums is none of them."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
