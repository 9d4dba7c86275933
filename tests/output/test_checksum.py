"""The compiled CRC-32 is zlib's."""

import random
import zlib

import pytest

from bert_extract.output import checksum

SIZES = (*range(600), 767, 768, 769, 4095, 4097, 8191, 8192, 8193, 100_003)


@pytest.fixture(params=[1, 2])
def always_compiled(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if request.param > checksum._LEVEL:
        pytest.skip("it was not built, or this machine cannot run it")
    monkeypatch.setattr(checksum, "_LEVEL", request.param)
    monkeypatch.setattr(checksum, "_MIN_KERNEL_BYTES", 0)


@pytest.mark.parametrize("start", [0, 1, 0xFFFFFFFF, 0x12345678])
def test_it_is_zlibs_for_any_size_and_place(always_compiled: None, start: int) -> None:
    content = random.Random(start).randbytes(100_100)
    for size in SIZES:
        for offset in (0, 1, 7, 16):
            block = content[offset : offset + size]
            assert checksum.crc32(block, start) == zlib.crc32(block, start)


@pytest.mark.parametrize("byte", [b"\0", b"\xff"])
def test_it_is_zlibs_for_bytes_that_are_all_alike(
    always_compiled: None, byte: bytes
) -> None:
    for size in SIZES:
        assert checksum.crc32(byte * size) == zlib.crc32(byte * size)


def test_it_takes_what_encoders_give(always_compiled: None) -> None:
    content = random.Random(1).randbytes(20_000)
    writable = bytearray(content)
    for block in (content, writable, memoryview(content), memoryview(writable)):
        assert checksum.crc32(block[3:]) == zlib.crc32(content[3:])


def test_pieces_give_the_whole(always_compiled: None) -> None:
    rng = random.Random(2)
    content = rng.randbytes(300_000)
    crc = position = 0
    while position < len(content):
        size = rng.randrange(40_000)
        crc = checksum.crc32(content[position : position + size], crc)
        position += size
    assert crc == zlib.crc32(content)


def test_without_the_kernel_it_is_zlibs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksum, "_KERNEL", None)
    content = random.Random(3).randbytes(20_000)
    assert checksum.crc32(content, 5) == zlib.crc32(content, 5)
