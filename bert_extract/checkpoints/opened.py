"""init_checkpoint -> the one checkpoint that a process has of it, found once."""

from bert_extract.checkpoints.base import Checkpoint
from bert_extract.checkpoints.huggingface import HuggingFaceCheckpoint, find_safetensors
from bert_extract.checkpoints.model_garden import OBJECT_GRAPH, ObjectCheckpoint
from bert_extract.checkpoints.tensor_bundle import (
    Tf1Checkpoint,
    data_files,
    read_index,
    resolve_prefix,
    variables_of,
)
from bert_extract.errors import CheckpointError
from bert_extract.files import FileStatus, status_of
from bert_extract.model.config import Dialect

# Of a file: its size, and when it was written.


def open_checkpoint(init_checkpoint: str) -> "OpenedCheckpoint":
    """Finds the checkpoint; what is in it is read when it is first asked for.

    Args:
      init_checkpoint: the prefix of TensorFlow's files, a safetensors file or the
        index of several, or a directory that holds one of them.

    Raises:
      CheckpointError: a directory holds several, or the file is of a format that is
        not read. What is not there is an error once it is asked for.
    """
    return OpenedCheckpoint(init_checkpoint)


class OpenedCheckpoint:
    """A checkpoint: whose it is, its files and its variables, and its checksum.

    Attributes:
      init_checkpoint: as it was given.
      dialect: whose config belongs to it. The weights say it: safetensors are Hugging
        Face's, TensorFlow's files are Google's. A config cannot: early ones of Hugging
        Face's look like Google's, and it means another gelu by the same word. What is
        not there counts as Google's.
    """

    def __init__(self, init_checkpoint: str) -> None:
        self.init_checkpoint = init_checkpoint
        self._safetensors_file = find_safetensors(init_checkpoint)
        is_safetensors = self._safetensors_file is not None
        self.dialect = Dialect.HUGGING_FACE if is_safetensors else Dialect.GOOGLE
        self._stored: Checkpoint | None = None
        self._stamps: dict[str, FileStatus] = {}
        self._checksum: str | None = None
        self._was_read = False

    @property
    def stored(self) -> Checkpoint:
        """The checkpoint in its format, which its content tells: its header is read.

        Raises:
          CheckpointError: it is missing, broken, or of a format that is not read.
        """
        if self._stored is None:
            stored = self._open()
            self._stamps = {path: _stamp(path) for path in stored.files}
            self._stored = stored
        return self._stored

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that is read of it, wherever it lies.

        Raises:
          CheckpointError: as `stored`.
        """
        return self.stored.files

    def checksum(self) -> str:
        """What is equal for two checkpoints only if their weights are, as hex.

        It is computed once, and again only if the files have changed before their
        weights were read: afterwards it is the checksum of the weights in memory.

        Raises:
          CheckpointError: a file cannot be read, or has changed since its weights were.
        """
        if not self._was_read:
            self._forget_changed()
        if self._checksum is None:
            checksum = self.stored.checksum()
            self._check_unchanged()
            self._checksum = checksum
        return self._checksum

    def begin_reading(self) -> Checkpoint:
        """The checkpoint as its files are now, for whoever reads its weights."""
        self._forget_changed()
        return self.stored

    def end_reading(self) -> None:
        """Checks that the weights that were read are all of one checkpoint.

        Raises:
          CheckpointError: a file was written meanwhile.
        """
        self._check_unchanged()
        self._was_read = True

    def _check_unchanged(self) -> None:
        """Checks that the files are those whose header was read."""
        for path, stamp in self._stamps.items():
            if _stamp(path) != stamp:
                raise CheckpointError(
                    f"{path}: was changed while it was in use: start again when "
                    "nothing writes to it"
                )

    def _open(self) -> Checkpoint:
        if self._safetensors_file is not None:
            return HuggingFaceCheckpoint.open(self._safetensors_file)
        prefix = resolve_prefix(self.init_checkpoint)
        index = read_index(prefix)
        variables = variables_of(index)
        is_object_based = OBJECT_GRAPH in variables
        bundle_class = ObjectCheckpoint if is_object_based else Tf1Checkpoint
        return bundle_class(prefix, variables, data_files(prefix, index))

    def _forget_changed(self) -> None:
        """Lets go of what was known of files that have changed since."""
        try:
            self._check_unchanged()
        except CheckpointError:
            self._stored, self._stamps, self._checksum = None, {}, None


def _stamp(path: str) -> FileStatus:
    try:
        return status_of(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read it: {error.strerror}") from error
