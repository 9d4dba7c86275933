"""TensorFlow's checkpoint files, NAME.index and NAME.data-*, of TF1 and of TF2."""

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import tensorflow as tf

from bert_extract.checkpoints.base import Source, StoredVariable
from bert_extract.checkpoints.bundle_index import Entry, Index, parse_index, read_varint
from bert_extract.errors import CheckpointError
from bert_extract.files import LFS_COMPLAINT, is_lfs_pointer

# A checkpoint is a prefix that several files share; people often paste one of the
# files.
_FILE_OF_CHECKPOINT = re.compile(r"(.+)\.(index|meta|data-\d{5}-of-\d{5})")

# Of a number of 64 bits, in bytes.
_LONGEST_VARINT = 10
# Bytes that tell what else a file is.
_HEAD_BYTES = 64


class Bundle:
    """A checkpoint in TensorFlow's files; the names in it are its subclasses' matter.

    Attributes:
      path: the prefix of the files.
      files: these, the index first.
      variables: every variable, by the name that it was saved under.
    """

    def __init__(
        self,
        prefix: str,
        variables: Mapping[str, StoredVariable],
        data_files: Sequence[str],
    ) -> None:
        self.path = prefix
        self.files = (f"{prefix}.index", *data_files)
        self.variables = variables

    def read(self, names: Sequence[str]) -> Iterator[tf.Tensor]:
        """Yields stored variables on the CPU, in order, as they lie there."""
        # One RestoreV2 reads each variable into the buffer that stays its tensor's: a
        # NumPy array between would double the memory.
        dtypes = [tf.as_dtype(self.variables[name].dtype) for name in names]
        try:
            with tf.device("CPU:0"):
                tensors = tf.raw_ops.RestoreV2(
                    prefix=self.path,
                    tensor_names=list(names),
                    shape_and_slices=[""] * len(names),
                    dtypes=dtypes,
                )
        except tf.errors.OpError as error:
            raise _unreadable(self.path, error) from error
        tensors.reverse()
        while tensors:
            yield tensors.pop()

    def checksum(self) -> str:
        """SHA-256 of the index, which holds a checksum of every variable."""
        index_file = f"{self.path}.index"
        try:
            with tf.io.gfile.GFile(index_file, "rb") as reader:
                return hashlib.sha256(reader.read()).hexdigest()
        except tf.errors.OpError as error:
            raise CheckpointError(
                f"{index_file}: cannot read it: {error.message}"
            ) from error


class Tf1Checkpoint(Bundle):
    """What the original's code saved: the names are TF1's by definition."""

    config_name = "bert_config.json"
    not_bert_hint = "No variable's name begins with bert/"
    missing_hint = "Is the checkpoint whole, and a BERT that the original's code saved?"

    def source(self, tf1_name: str) -> Source:
        """The variable itself."""
        return Source((tf1_name,))


def resolve_prefix(init_checkpoint: str) -> str:
    """The prefix that a prefix or a directory stands for.

    A directory stands for the checkpoint that its `checkpoint` file calls the latest.
    Published checkpoints come without that file: then it must hold exactly one.

    Raises:
      CheckpointError: there is no such checkpoint, or more than one.
    """
    prefix = _find_prefix(init_checkpoint)
    # TensorFlow looks for the prefix as for a glob before it opens it as a name. The
    # other characters of globs match themselves.
    if "[" in prefix or "\\" in prefix:
        raise CheckpointError(
            f"{prefix}: TensorFlow cannot open a checkpoint with [ or \\ in its path: "
            "rename it, or link to it under another name"
        )
    return prefix


def _find_prefix(init_checkpoint: str) -> str:
    try:
        init_checkpoint.encode("utf-8")
        if tf.io.gfile.exists(f"{init_checkpoint}.index"):
            return init_checkpoint
        if tf.io.gfile.isdir(init_checkpoint):
            return _latest_checkpoint(init_checkpoint)
        raise CheckpointError(_not_found_message(init_checkpoint))
    except UnicodeEncodeError as error:
        raise CheckpointError(
            f"{init_checkpoint!r}: the path is not UTF-8, and TensorFlow cannot open "
            "such a path: rename it, or link to it under another name"
        ) from error
    except tf.errors.OpError as error:
        raise CheckpointError(
            f"{init_checkpoint}: cannot look for the checkpoint: {error.message}"
        ) from error


def _latest_checkpoint(directory: str) -> str:
    prefixes = _prefixes_in(directory)
    if tf.io.gfile.exists(f"{directory.rstrip('/')}/checkpoint"):
        prefix = _recorded_checkpoint(directory)
        if prefix is None:
            raise CheckpointError(
                f"{directory}: its file `checkpoint` does not name a checkpoint that "
                f"is there; give the prefix of one{_listing(prefixes)}"
            )
        return prefix
    if not prefixes:
        raise CheckpointError(
            f"{directory}: expected a folder with a checkpoint: files NAME.index and "
            "NAME.data-00000-of-00001, or model.safetensors; found neither"
        )
    if len(prefixes) > 1:
        raise CheckpointError(
            f"{directory}: holds {len(prefixes)} checkpoints and no file `checkpoint` "
            f"that names the latest; give the prefix of one{_listing(prefixes)}"
        )
    return prefixes[0]


def _recorded_checkpoint(directory: str) -> str | None:
    logger = tf.get_logger()
    level = logger.level
    # What TensorFlow would log here, our error says.
    logger.setLevel(logging.CRITICAL)
    try:
        prefix: str | None = tf.train.latest_checkpoint(directory)
    except ValueError:  # bytes that are not UTF-8, or an empty file
        return None
    finally:
        logger.setLevel(level)
    return prefix


def _not_found_message(init_checkpoint: str) -> str:
    file_of_checkpoint = _FILE_OF_CHECKPOINT.fullmatch(init_checkpoint)
    if file_of_checkpoint is not None:
        return (
            f"{init_checkpoint}: this is one file of a checkpoint; give the prefix "
            f"that its files share: {file_of_checkpoint[1]}"
        )
    if tf.io.gfile.exists(init_checkpoint):
        return (
            f"{init_checkpoint}: expected the prefix of a TF1 checkpoint (files "
            "PREFIX.index and PREFIX.data-00000-of-00001); found a file of that name"
        )
    directory, slash, _ = init_checkpoint.rstrip("/").rpartition("/")
    directory = directory + slash if slash else "."
    if not tf.io.gfile.isdir(directory):
        return f"{init_checkpoint}: no such checkpoint: there is no folder {directory}"
    prefixes = _prefixes_in(directory)
    found = (
        f"these are in its folder{_listing(prefixes)}"
        if prefixes
        else "its folder holds no TF1 checkpoint"
    )
    return (
        f"{init_checkpoint}: no such checkpoint: there is no file "
        f"{init_checkpoint}.index; {found}"
    )


def _prefixes_in(directory: str) -> list[str]:
    root = "" if directory == "." else directory.rstrip("/") + "/"
    return sorted(
        root + name.removesuffix(".index")
        for name in tf.io.gfile.listdir(directory)
        if name.endswith(".index")
    )


def _listing(names: Iterable[str]) -> str:
    """One name a line; nothing where there is none."""
    text = "".join(f"\n  {name}" for name in names)
    return f":{text}" if text else ""


def read_index(prefix: str) -> Index:
    """Reads what a checkpoint has, and checks that its data files hold it.

    Raises:
      CheckpointError: there is no such index, it is damaged, or the data files are
        shorter than it says.
    """
    index_file = f"{prefix}.index"
    try:
        with tf.io.gfile.GFile(index_file, "rb") as reader:
            content = reader.read()
    except tf.errors.OpError as error:
        raise CheckpointError(
            f"{index_file}: cannot read it: {_reason(error)}"
        ) from error
    if is_lfs_pointer(content):
        raise CheckpointError(f"{index_file}: {LFS_COMPLAINT}")
    try:
        index = parse_index(content)
    except ValueError as error:  # UnicodeDecodeError, of a name in it, is one
        raise CheckpointError(
            f"{index_file}: expected the index of a TensorFlow checkpoint; found a "
            f"damaged or other file ({_reason(error)}): copy or download it again"
        ) from error
    try:
        _check_data_files(prefix, index)
    except (tf.errors.OpError, ValueError) as error:
        raise _unreadable(prefix, error) from error
    return index


def variables_of(index: Index) -> dict[str, StoredVariable]:
    """Every variable in an index, by its name there."""
    return {
        name: StoredVariable(entry.shape, entry.dtype)
        for name, entry in index.entries.items()
    }


def data_files(prefix: str, index: Index) -> list[str]:
    """The files that hold the variables of an index, in order."""
    shards = {entry.shard for entry in (*index.entries.values(), *index.parts)}
    return [_data_file(prefix, index, shard) for shard in sorted(shards)]


def _data_file(prefix: str, index: Index, shard: int) -> str:
    return f"{prefix}.data-{shard:05d}-of-{index.num_shards:05d}"


def _unreadable(prefix: str, error: Exception) -> CheckpointError:
    missing_hint = "copy or download the checkpoint's files again"
    if isinstance(error, tf.errors.PermissionDeniedError):
        missing_hint = "give yourself permission to read the checkpoint's files"
    return CheckpointError(
        f"{prefix}: the weights cannot be read ({_reason(error)}): {missing_hint}"
    )


def _check_data_files(prefix: str, index: Index) -> None:
    """Checks that what the index says is there: it is what memory is taken by.

    Raises:
      ValueError: it is not.
      tf.errors.OpError: a data file is not.
    """
    all_stored = [*index.entries.values(), *index.parts]
    for shard in sorted({entry.shard for entry in all_stored}):
        data_file = _data_file(prefix, index, shard)
        here = [entry for entry in all_stored if entry.shard == shard]
        # No two share bytes.
        expected = max(
            sum(entry.num_bytes for entry in here),
            *(entry.offset + entry.num_bytes for entry in here),
        )
        stat = tf.io.gfile.stat(data_file)
        if stat.is_directory:
            raise ValueError(f"{data_file}; Is a directory")
        if stat.length < expected:
            with tf.io.gfile.GFile(data_file, "rb") as reader:
                if is_lfs_pointer(reader.read(_HEAD_BYTES)):
                    raise CheckpointError(f"{data_file}: {LFS_COMPLAINT}")
            raise ValueError(
                f"{data_file} has {stat.length} bytes; by the index it has {expected}"
            )
        # A string's length stands in front of it, and memory is taken by that.
        strings = [entry for entry in here if entry.dtype == "string"]
        _check_strings(data_file, [entry for entry in strings if entry.shape == ()])
    num_bytes_of_parts = sum(part.num_bytes for part in index.parts)
    for name, entry in index.entries.items():
        if entry.has_parts and entry.num_values > num_bytes_of_parts:
            raise ValueError(
                f"{name} has the shape {list(entry.shape)}, which its parts do not fill"
            )


def _check_strings(data_file: str, entries: Sequence[Entry]) -> None:
    with tf.io.gfile.GFile(data_file, "rb") as reader:
        for entry in entries:
            reader.seek(entry.offset)
            length, _ = read_varint(reader.read(_LONGEST_VARINT), 0)
            if length > entry.num_bytes:
                raise ValueError(
                    f"{data_file}: a string of {length} bytes in {entry.num_bytes}"
                )


def _reason(error: Exception) -> str:
    """TensorFlow's message without the names that it gives to nodes and ops."""
    message = error.message if isinstance(error, tf.errors.OpError) else str(error)
    return re.sub(r"^\{\{.*?\}\} | \[Op:\w+\].*$", "", message, flags=re.DOTALL)
