"""A path, on the disk or far away -> the bytes of a file that fits in memory."""

import json
from typing import Any, TypeVar

from bert_extract.errors import BertExtractError, ConfigError, as_shown

Kind = TypeVar("Kind", dict[str, Any], list[Any])

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


def read_bytes(path: str, error: type[BertExtractError], complaint: str) -> bytes:
    """Reads a file.

    Args:
      path: where it is; one like gs://bucket/file is read by TensorFlow.
      error: the class of what is raised.
      complaint: what its message says between the path and the reason.

    Raises:
      BertExtractError: the file cannot be read.
    """
    content = find_bytes(path, error, complaint)
    if content is None:
        raise error(f"{path}: {complaint}: No such file or directory")
    return content


def find_bytes(
    path: str, error: type[BertExtractError], complaint: str
) -> bytes | None:
    """Reads a file that need not be there; None if it is not.

    Raises:
      BertExtractError: the file is there, and cannot be read, or only stands for the
        real one.
    """
    content = _find_bytes(path, error, complaint)
    if content is not None and is_lfs_pointer(content):
        raise error(f"{path}: {LFS_COMPLAINT}")
    return content


def _find_bytes(
    path: str, error: type[BertExtractError], complaint: str
) -> bytes | None:
    if not is_remote(path):
        try:
            with open(path, "rb") as reader:
                return reader.read()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as failure:
            raise error(f"{path}: {complaint}: {failure.strerror}") from failure
    import tensorflow as tf  # only those who read from afar wait for it

    try:
        with tf.io.gfile.GFile(path, "rb") as remote:
            content: bytes = remote.read()
    except tf.errors.NotFoundError:
        return None
    except tf.errors.OpError as failure:
        raise error(f"{path}: {complaint}: {failure.message}") from failure
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


def is_remote(path: str) -> bool:
    """Whether the path is one for `tf.io.gfile`, as in gs://bucket/file."""
    return "://" in path
