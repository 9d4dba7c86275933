"""The bytes of safetensors: what is read, and what is not believed."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from bert_extract.checkpoints.base import StoredVariable
from bert_extract.checkpoints.safetensors_file import MAX_HEADER_BYTES, SafetensorsFile
from bert_extract.errors import CheckpointError
from support.make_checkpoints import write_safetensors

VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)


def write(path: Path, header: Any, data: bytes, length: int | None = None) -> str:
    """A file of any header."""
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(head) if length is None else length
    path.write_bytes(length.to_bytes(8, "little") + head + data)
    return str(path)


def entry(begin: int, end: int, shape: Any = (2,), dtype: Any = "F32") -> Any:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def open_error(path: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        SafetensorsFile(path)
    message = str(caught.value)
    start = f"{path}: expected a whole safetensors file: "
    assert message.startswith(start)
    assert message.endswith(": copy or download it again")
    assert len(message) < 1000
    return message.removeprefix(start).removesuffix(": copy or download it again")


def test_what_is_stored_is_listed_and_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    numbers = np.arange(4, dtype=np.int64)
    write_safetensors(path, {"a": VALUES, "numbers": numbers, "b": VALUES.T})
    file = SafetensorsFile(str(path))
    assert file.variables == {
        "a": StoredVariable((2, 3), "float32"),
        "numbers": StoredVariable((4,), "int64"),
        "b": StoredVariable((3, 2), "float32"),
    }
    np.testing.assert_array_equal(file.read("a").numpy(), VALUES)
    np.testing.assert_array_equal(file.read("b").numpy(), VALUES.T)
    np.testing.assert_array_equal(file.read("numbers").numpy(), numbers)


def test_half_precision_is_read_as_it_lies_there(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"a": VALUES.astype(np.float16)}, "F16")
    half = SafetensorsFile(str(path)).read("a")
    assert half.dtype == tf.float16
    np.testing.assert_array_equal(half.numpy(), VALUES)
    # 1.0 and -2.5 in bfloat16: the upper half of float32's bits.
    write_safetensors(path, {"a": np.array([0x3F80, 0xC020], np.uint16)}, "BF16")
    brain = SafetensorsFile(str(path)).read("a")
    assert brain.dtype == tf.bfloat16
    assert tf.cast(brain, tf.float32).numpy().tolist() == [1.0, -2.5]


def test_a_remote_file(tmp_path: Path) -> None:
    local = tmp_path / "model.safetensors"
    write_safetensors(local, {"a": VALUES})
    remote = f"ram://{tmp_path.name}/model.safetensors"
    tf.io.gfile.copy(str(local), remote)
    file = SafetensorsFile(remote)
    np.testing.assert_array_equal(file.read("a").numpy(), VALUES)
    assert file.checksum() == SafetensorsFile(str(local)).checksum()
    with pytest.raises(CheckpointError, match="cannot read it"):
        SafetensorsFile(f"ram://{tmp_path.name}/none")


def test_the_checksum_is_of_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"a": VALUES})
    before = SafetensorsFile(str(path)).checksum()
    assert before == hashlib.sha256(path.read_bytes()).hexdigest()
    write_safetensors(path, {"a": VALUES + 1e-7})
    assert SafetensorsFile(str(path)).checksum() != before


def test_a_dtype_of_tomorrow_is_listed(tmp_path: Path) -> None:
    header = {"new": entry(0, 3, [5], "F4"), "a": entry(3, 11)}
    file = SafetensorsFile(write(tmp_path / "m", header, bytes(11)))
    assert file.variables["new"] == StoredVariable((5,), "F4")
    assert file.read("a").numpy().tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("header", "num_bytes", "reason"),
    [
        (b"{", 8, "its header is not JSON: "),
        (b"\xff\xfe", 8, "its header is not JSON: "),
        (b"[" * 100_000, 0, "its header is not JSON: "),
        (b'{"a": ' + b"9" * 5000 + b"}", 0, "its header is not JSON: "),
        (b'{"a": 1, "a": 1}', 8, "its header is not JSON: a name appears in it twice"),
        ([], 8, "its header is not a JSON object"),
        ({"a": 7}, 8, "'a' has no dtype, shape and data_offsets"),
        ({"a": {"shape": [2], "data_offsets": [0, 8]}}, 8, "'a' has no dtype"),
        ({"a": entry(0, 8, "2")}, 8, "the shape and the data_offsets of 'a' are not"),
        ({"a": entry(0, 8, [2.0])}, 8, "the shape and the data_offsets of 'a' are"),
        ({"a": entry(0, 8, [True, 2])}, 8, "the shape and the data_offsets of 'a'"),
        ({"a": entry(0, 8, [-2])}, 8, "the shape and the data_offsets of 'a' are not"),
        ({"a": entry(0, 8, [1] * 9)}, 8, "the shape and the data_offsets of 'a' are"),
        ({"a": entry(-8, 0)}, 8, "the shape and the data_offsets of 'a' are not"),
        ({"a": entry(0, 1 << 63)}, 8, "the shape and the data_offsets of 'a' are not"),
        ({"a": entry(8, 0, [0])}, 8, "'a' has the shape [0] of F32, and its data_off"),
        ({"a": entry(0, 8, [3])}, 8, "'a' has the shape [3] of F32, and its data_off"),
        ({"a": entry(0, 8, [1 << 62] * 8)}, 8, "'a' has the shape [4611686018427387"),
        ({"a": entry(0, 16, [4])}, 8, "its tensors end at byte 86, and the file has"),
        ({"a": entry(0, 8)}, 9, "its tensors end at byte 77, and the file has 78 byt"),
        ({"a": entry(4, 12)}, 12, "'a' begins at byte 74, and the tensor before it en"),
        (
            {"a": entry(0, 8), "b": entry(4, 12)},
            12,
            "'b' begins at byte 135, and the tensor before it ends at byte 139",
        ),
    ],
)
def test_a_header_that_does_not_fit(
    tmp_path: Path, header: Any, num_bytes: int, reason: str
) -> None:
    path = write(tmp_path / "model.safetensors", header, bytes(num_bytes))
    assert reason in open_error(path)


@pytest.mark.parametrize("length", [9, 100, MAX_HEADER_BYTES + 1, 2**63, 2**64 - 1])
def test_a_header_of_absurd_length(tmp_path: Path, length: int) -> None:
    path = write(tmp_path / "model.safetensors", b"{}", b"", length)
    assert open_error(path) == (
        f"its first 8 bytes say that the header has {length} bytes; the file has 10, "
        "and 4194304 are the most that is read"
    )


@pytest.mark.parametrize("num_bytes", [0, 7])
def test_a_file_without_a_length(tmp_path: Path, num_bytes: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(num_bytes))
    assert open_error(str(path)) == (
        f"expected 8 bytes with the length of the header; it has {num_bytes}"
    )


def test_a_file_that_is_shortened_after_it_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"a": VALUES})
    file = SafetensorsFile(str(path))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="it ended 4 bytes too early"):
        file.read("a")
    path.unlink()
    with pytest.raises(CheckpointError, match="No such file or directory"):
        file.read("a")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="Is a directory"):
        SafetensorsFile(str(tmp_path))
