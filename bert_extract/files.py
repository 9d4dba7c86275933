"""A path, on the disk or far away -> what is there: its bytes, a stream, its status.

A path like gs://bucket/file is read and written by TensorFlow's file systems, and the
only home of that is here, but for TensorFlow's own checkpoints and the folders of
models. TensorFlow is imported where such a path is met, and what it raises is an
`OSError` like any other.
"""

import contextlib
import glob
import hashlib
import io
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, TypeVar

from bert_extract.errors import BertExtractError, ConfigError, as_shown

Kind = TypeVar("Kind", dict[str, Any], list[Any])

_FILE_SCHEME = "file://"
_BLOCK_SIZE = 1 << 20

# How a file begins that git-lfs has put in the place of a large one.
_LFS_POINTER = b"version https://git-lfs"
# What to say of one; it stands behind a path.
LFS_COMPLAINT = (
    "expected the file itself; found git-lfs's pointer to it, which is what a clone "
    "without git-lfs holds: 'git lfs pull' in its folder gets the file"
)


def is_lfs_pointer(beginning: bytes) -> bool:
    """Whether a file that begins so stands for another one, which was not fetched."""
    return beginning.startswith(_LFS_POINTER)


def is_remote(path: str) -> bool:
    """Whether the path is one for `tf.io.gfile`, as in gs://bucket/file."""
    return "://" in path


def local_path(path: str) -> str | None:
    """The path on this machine; None if it is far away."""
    if path.startswith(_FILE_SCHEME):
        return path.removeprefix(_FILE_SCHEME)
    return None if is_remote(path) else path


# -------------------------------------------------------------------------- small files


def read_bytes(
    path: str,
    error: type[BertExtractError],
    complaint: str,
    most: int | None = None,
) -> bytes:
    """Reads a file.

    Args:
      path: where it is.
      error: the class of what is raised.
      complaint: what its message says between the path and the reason.
      most: how many bytes are read at most; None is all.

    Raises:
      BertExtractError: the file cannot be read.
    """
    content = find_bytes(path, error, complaint, most)
    if content is None:
        raise error(f"{path}: {complaint}: No such file or directory")
    return content


def find_bytes(
    path: str,
    error: type[BertExtractError],
    complaint: str,
    most: int | None = None,
) -> bytes | None:
    """Does what `read_bytes` does, for a file that need not be there; None if not.

    Raises:
      BertExtractError: the file is there, and cannot be read, or only stands for the
        real one.
    """
    try:
        with open_file(path) as reader:
            content = reader.read(-1 if most is None else most)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as failure:
        raise error(f"{path}: {complaint}: {failure.strerror}") from failure
    if is_lfs_pointer(content):
        raise error(f"{path}: {LFS_COMPLAINT}")
    return content


def find_json(path: str, kind: type[Kind]) -> Kind | None:
    """Reads a file of JSON that need not be there; None if it is not.

    Args:
      path: where it is.
      kind: dict or list, what it must hold.

    Raises:
      ConfigError: the file is there, and holds something else or cannot be read.
    """
    content = find_bytes(path, ConfigError, "cannot read it")
    if content is None:
        return None
    expected = "object" if kind is dict else "list"
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path}: expected a JSON {expected}; not valid JSON: {error}"
        ) from error
    if not isinstance(found, kind):
        raise ConfigError(
            f"{path}: expected a JSON {expected}; found {as_shown(found)}"
        )
    return found


# -------------------------------------------------------------------------- any file


@dataclass(frozen=True, slots=True)
class FileStatus:
    """What can be told of a file without reading it."""

    size: int  # bytes
    mtime_ns: int  # 0 where a remote file system knows no times
    is_regular: bool  # no folder, and no pipe or device


def status_of(path: str) -> FileStatus:
    """Looks at a file.

    Raises:
      OSError: it is not there, or cannot be looked at.
    """
    if not is_remote(path):
        return to_status(os.stat(path))
    with _as_os_errors(path) as tf:
        found = tf.io.gfile.stat(path)
    return FileStatus(found.length, found.mtime_nsec, not found.is_directory)


def to_status(status: os.stat_result) -> FileStatus:
    """The same of what the system told of a file."""
    return FileStatus(status.st_size, status.st_mtime_ns, stat.S_ISREG(status.st_mode))


def expand(name: str) -> list[str]:
    """The files that a name or a glob means, sorted by bytes; none if there are none.

    Raises:
      OSError: a remote file system cannot be asked.
    """
    is_glob = any(character in name for character in "*?[")
    if is_remote(name):
        with _as_os_errors(name) as tf:
            if is_glob:
                return sorted(tf.io.gfile.glob(name), key=os.fsencode)
            return [name] if tf.io.gfile.exists(name) else []
    if os.path.exists(name):
        return [name]
    return sorted(glob.glob(name, recursive=True), key=os.fsencode)


def open_file(path: str, buffer_size: int = io.DEFAULT_BUFFER_SIZE) -> IO[bytes]:
    """Opens a file for reading.

    Args:
      path: where it is.
      buffer_size: bytes that are read at once.

    Raises:
      OSError: it cannot be opened. Reading may raise that, too.
    """
    return io.BufferedReader(open_raw_file(path), buffer_size)


def sha256_of(path: str) -> str:
    """The SHA-256 of a file, in hexadecimal.

    Raises:
      OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with open_file(path, _BLOCK_SIZE) as reader:
        while block := reader.read(_BLOCK_SIZE):
            digest.update(block)
    return digest.hexdigest()


def open_raw_file(path: str) -> io.RawIOBase:
    """Does what `open_file` does, without a buffer."""
    return _RemoteReader(path) if is_remote(path) else io.FileIO(path)


class _RemoteReader(io.RawIOBase):
    """`tf.io.gfile` as a binary stream of Python's; its own readline drops bytes."""

    def __init__(self, path: str) -> None:
        self._path = path
        with _as_os_errors(path) as tf:
            self._file = tf.io.gfile.GFile(path, "rb")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with _as_os_errors(self._path):
            self._file.seek(offset, whence)
        return self.tell()

    def tell(self) -> int:
        with _as_os_errors(self._path):
            position: int = self._file.tell()
        return position

    def readinto(self, buffer: Any) -> int:
        with _as_os_errors(self._path):
            block = self._file.read(len(buffer))
        buffer[: len(block)] = block
        return len(block)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


class RemoteWriter(io.RawIOBase):
    """A remote object; it appears when it is closed."""

    def __init__(self, path: str) -> None:
        """Opens it.

        Raises:
          OSError: it cannot be written.
        """
        self._path = path
        with _as_os_errors(path) as tf:
            self._file = tf.io.gfile.GFile(path, "wb")
            self._file.write(b"")  # opens it: fails now if it cannot

    def writable(self) -> bool:
        """Says yes."""
        return True

    def write(self, block: Any) -> int:
        """Appends a block, all of it."""
        with _as_os_errors(self._path):
            self._file.write(bytes(block))
        return len(block)

    def close(self) -> None:
        """Makes the object appear."""
        if not self.closed:
            with _as_os_errors(self._path):
                self._file.close()
        super().close()

    def discard(self) -> None:
        """Closes the object and removes it: half an output must not look done."""
        self.close()
        with _as_os_errors(self._path) as tf:
            tf.io.gfile.remove(self._path)


@contextlib.contextmanager
def _as_os_errors(path: str) -> Iterator[Any]:
    """Gives TensorFlow, whose errors are the system's to whoever is outside."""
    import tensorflow as tf  # only those who go far away wait for it

    try:
        yield tf
    except tf.errors.NotFoundError as error:
        raise FileNotFoundError(None, error.message, path) from error
    except tf.errors.OpError as error:
        raise OSError(None, error.message, path) from error
