"""The index of TensorFlow's checkpoint files: what cannot be is refused.

Checksums protect it against accidents; what is tried here has right ones.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from bert_extract.checkpoints.bundle_index import crc32c, parse_index, read_varint
from bert_extract.checkpoints.tensor_bundle import read_index, variables_of
from bert_extract.errors import CheckpointError
from support.make_bundle_index import rewrite_index, to_table
from support.make_checkpoints import write_tf1_checkpoint


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    """Two variables: 24 bytes of "a", then the string of "b"."""
    variables = {"a": np.zeros((2, 3), np.float32), "b": np.array(b"text", object)}
    write_tf1_checkpoint(tmp_path / "ckpt", variables)
    return str(tmp_path / "ckpt")


def list_error(prefix: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_index(prefix)
    return str(caught.value).removeprefix(prefix)


def test_the_checksum_of_the_standard() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720 and everybody else
    assert crc32c(bytes(32)) == 0x8A9136AA


def test_numbers_of_any_length() -> None:
    assert read_varint(b"\x05", 0) == (5, 1)
    assert read_varint(b"?\xac\x02", 1) == (300, 3)
    with pytest.raises(ValueError, match="does not end"):
        read_varint(b"\xff" * 11, 0)
    with pytest.raises(ValueError, match="does not end"):
        read_varint(b"\xff", 0)


def test_what_tensorflow_lists_is_listed(tiny_bert: Path) -> None:
    golden = Path(__file__).parents[1] / "golden" / "model_garden" / "pretrainer"
    for directory in (tiny_bert, golden):
        prefix = str(directory / "bert_model.ckpt")
        reader = tf.train.load_checkpoint(prefix)
        dtypes = reader.get_variable_to_dtype_map()
        listed = variables_of(read_index(prefix))
        assert {name: list(stored.shape) for name, stored in listed.items()} == (
            reader.get_variable_to_shape_map()
        )
        for name, stored in listed.items():
            assert stored.dtype == dtypes[name].name


def test_an_index_of_many_blocks(tmp_path: Path) -> None:
    names = [f"scope/{number:05d}/variable" for number in range(20_000)]
    value = np.zeros(1, np.float32)
    write_tf1_checkpoint(tmp_path / "ckpt", dict.fromkeys(names, value))
    assert (tmp_path / "ckpt.index").stat().st_size > 262_144
    assert list(read_index(str(tmp_path / "ckpt")).entries) == names


@pytest.mark.parametrize(
    ("name", "field", "value", "reason"),
    [
        ("a", "size", 23, "a has 23 bytes, not 24"),
        ("a", "size", 2**62, f"a has {2**62} bytes, not 24"),
        ("a", "size", -1, "a has an impossible size or position"),
        ("a", "offset", -1, "a has an impossible size or position"),
        ("a", "shard_id", 1, "a has an impossible size or position"),
        ("a", "shard_id", -1, "a has an impossible size or position"),
        ("a", "dtype", 99, "a is of an unknown type 99"),
        ("a", "dtype", 2, "a has 24 bytes, not 48"),
        ("", "num_shards", 0, "it says that there are 0 data files"),
        ("", "num_shards", -4, "it says that there are -4 data files"),
        ("", "num_shards", 10**9, "it says that there are 1000000000 data files"),
    ],
)
def test_an_entry_that_cannot_be(
    prefix: str, name: str, field: str, value: int, reason: str
) -> None:
    def change(key: str, proto: Any) -> None:
        if key == name:
            setattr(proto, field, value)

    rewrite_index(prefix, change)
    assert list_error(prefix) == (
        ".index: expected the index of a TensorFlow checkpoint; found a damaged or "
        f"other file ({reason}): copy or download it again"
    )


@pytest.mark.parametrize("sizes", [(-2, -3), (-6, 1), (2**40, 2**40)])
def test_a_shape_that_cannot_be(prefix: str, sizes: tuple[int, ...]) -> None:
    def change(key: str, proto: Any) -> None:
        if key == "a":
            for dim, size in zip(proto.shape.dim, sizes, strict=True):
                dim.size = size

    rewrite_index(prefix, change)
    assert f"(a {'is of the shape' if sizes[0] < 0 else 'has 24 bytes, not'} " in (
        list_error(prefix)
    )


def test_more_axes_than_have_a_use(prefix: str) -> None:
    def change(key: str, proto: Any) -> None:
        if key == "a":
            for _ in range(7):
                proto.shape.dim.add(size=1)

    rewrite_index(prefix, change)
    assert "(a has 9 axes)" in list_error(prefix)


@pytest.mark.parametrize("name", ["a", "b"])
def test_what_lies_behind_the_end_of_the_data(prefix: str, name: str) -> None:
    def change(key: str, proto: Any) -> None:
        if key == name:
            proto.offset = 2**50

    rewrite_index(prefix, change)
    assert ".data-00000-of-00001 has 33 bytes; by the index it has 11258999" in (
        list_error(prefix)
    )


def test_more_bytes_than_there_are_cannot_be_shared(prefix: str) -> None:
    """A hundred large variables at one place would take a hundred times the memory."""

    def change(key: str, proto: Any) -> None:
        if key == "b":
            proto.offset, proto.size = 0, 33

    rewrite_index(prefix, change)
    assert "has 33 bytes; by the index it has 57" in list_error(prefix)


def test_the_length_of_a_string_is_checked(prefix: str) -> None:
    data_file = Path(f"{prefix}.data-00000-of-00001")
    content = bytearray(data_file.read_bytes())
    assert content[24] == len(b"text")
    content[24] = 0x7F
    data_file.write_bytes(content)
    assert "00000-of-00001: a string of 127 bytes in 9): " in list_error(prefix)


def test_a_variable_that_is_larger_than_its_parts(tmp_path: Path) -> None:
    prefix = str(tmp_path / "ckpt")
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=["a", "a"],
        shape_and_slices=["4 2 0,2:-", "4 2 2,2:-"],
        tensors=[np.zeros((2, 2), np.float32)] * 2,
    )
    assert variables_of(read_index(prefix))["a"].shape == (4, 2)

    def change(key: str, proto: Any) -> None:
        if key == "a":
            proto.shape.dim[0].size = 2**40

    rewrite_index(prefix, change)
    assert "(a has the shape [1099511627776, 2], which its parts do not fill)" in (
        list_error(prefix)
    )


def test_names_must_be_in_order() -> None:
    header, entry = b"\x08\x01", b"\x08\x01\x28\x04"  # one file; 4 bytes of float32
    assert (
        parse_index(to_table([(b"", header), (b"b", entry)])).entries["b"].shape == ()
    )
    content = to_table([(b"", header), (b"b", entry), (b"a", entry)])
    with pytest.raises(ValueError, match="its names are not in order"):
        parse_index(content)


def test_names_are_not_endless() -> None:
    """Sharing their beginnings, 1 MB of entries could hold 10 GB of them."""
    header, entry = b"\x08\x01", b"\x08\x01\x28\x04"
    name = b"a" * 4096
    content = to_table([(b"", header), (name, entry)])
    assert [*parse_index(content).entries] == [name.decode()]
    with pytest.raises(ValueError, match="a name in it has 4097 bytes"):
        parse_index(to_table([(b"", header), (name + b"a", entry)]))


def test_no_header() -> None:
    with pytest.raises(ValueError, match="it has no header"):
        parse_index(to_table([(b"b", b"")]))
    with pytest.raises(ValueError, match="it holds something that is not an entry"):
        parse_index(to_table([(b"", b"\xff\xff")]))
