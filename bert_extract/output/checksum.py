"""Bytes -> CRC-32, at the speed of the memory where the machine can."""

import ctypes
import importlib.util
import zlib

import numpy as np

# Fewer bytes are done before the kernel is called.
_MIN_KERNEL_BYTES = 1 << 14


def crc32(block: bytes | bytearray | memoryview, crc: int = 0) -> int:
    """Does what `zlib.crc32` does, with the compiled kernel where there is one."""
    if _KERNEL is None or len(block) < _MIN_KERNEL_BYTES:
        return zlib.crc32(block, crc)
    content = np.frombuffer(block, np.uint8)
    result: int = _KERNEL.bert_extract_crc32(
        crc, content.ctypes.data, content.nbytes, _LEVEL
    )
    return result


def _load_kernel() -> ctypes.CDLL | None:
    """Loads the compiled kernel; None where it was not built or cannot run."""
    spec = importlib.util.find_spec("bert_extract.output._crc_kernel")
    if spec is None or spec.origin is None:
        return None
    try:
        # Not `import`: it is no Python module. CDLL releases the lock in a call.
        kernel = ctypes.CDLL(spec.origin)
    except OSError:  # built for another machine
        return None
    if not kernel.bert_extract_crc32_level():
        return None
    kernel.bert_extract_crc32.restype = ctypes.c_uint32
    kernel.bert_extract_crc32.argtypes = [
        ctypes.c_uint32,  # crc
        ctypes.c_void_p,  # bytes
        ctypes.c_int64,  # size
        ctypes.c_int,  # level
    ]
    return kernel


_KERNEL = _load_kernel()
# Which instructions it takes: 1, or 2 for wider ones.
_LEVEL = 0 if _KERNEL is None else _KERNEL.bert_extract_crc32_level()
