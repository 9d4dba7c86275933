"""Indexes of TensorFlow's checkpoints that say what their maker wants them to say."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tensorflow.core.protobuf.tensor_bundle_pb2 import (
    BundleEntryProto,
    BundleHeaderProto,
)

from bert_extract.checkpoints.bundle_index import crc32c, parse_table

# The name of an entry, and what it says, to be changed.
Change = Callable[[str, Any], None]


def rewrite_index(prefix: Path | str, change: Change) -> None:
    """Changes entries of PREFIX.index, "" the header; its checksums are right again."""
    index_file = Path(f"{prefix}.index")
    entries = []
    for key, value in parse_table(index_file.read_bytes()):
        proto = (BundleEntryProto if key else BundleHeaderProto).FromString(value)
        change(key.decode("utf-8", "replace"), proto)
        entries.append((key, proto.SerializeToString()))
    index_file.write_bytes(to_table(entries))


def to_table(entries: list[tuple[bytes, bytes]]) -> bytes:
    """A sorted table of one block."""
    content = bytearray()

    def add(block: bytes) -> bytes:
        handle = _varint(len(content)) + _varint(len(block))
        crc = crc32c(block + b"\0")
        masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
        content.extend(block + b"\0" + struct.pack("<I", masked))
        return handle

    handle = add(to_block(entries))
    metadata = add(to_block([]))
    footer = metadata + add(to_block([(entries[-1][0], handle)]))
    magic = struct.pack("<Q", 0xDB4775248B80FB57)
    return bytes(content) + footer.ljust(40, b"\0") + magic


def to_block(entries: list[tuple[bytes, bytes]]) -> bytes:
    """A block in which every name is whole."""
    block = bytearray()
    starts = []
    for name, value in entries:
        starts.append(len(block))
        block += b"\0" + _varint(len(name)) + _varint(len(value)) + name + value
    starts = starts or [0]
    return bytes(block) + struct.pack(f"<{len(starts) + 1}I", *starts, len(starts))


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])
