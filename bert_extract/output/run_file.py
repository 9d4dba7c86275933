"""What stands beside an output: how it came to be, and how much of it is durable."""

import contextlib
import json
import os
import zlib
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple

from absl import logging

from bert_extract.output.append_file import write_durably

# So many in a run file, spread over the partial file: it stays small.
_MAX_CHECKPOINTS = 64


class Checkpoint(NamedTuple):
    """A place in the partial file where a record ends, and what stands before it."""

    num_bytes: int
    num_records: int
    crc: int  # CRC-32 of all bytes before it
    # Of the lines before it; None where a version wrote it that did not count.
    text_size: int | None = None


START = Checkpoint(0, 0, 0, 0)


@dataclass(frozen=True)
class RunFile:
    """What stands beside an output: how it came to be, how much of it is durable."""

    fingerprint: dict[str, Any]
    num_records: int  # durable ones, up to the end of a group that ends with a record
    num_bytes: int  # the output's bytes that hold them
    is_complete: bool
    process_id: int
    host: str
    # Of the partial file, in order; the last one is the end of what is durable. None
    # where a version wrote it that had no checksums.
    checkpoints: list[Checkpoint] | None = None


def with_checkpoint(checkpoints: list[Checkpoint], new: Checkpoint) -> list[Checkpoint]:
    """Adds the newest one; of too many, the one goes that leaves the smallest gap."""
    if new.num_bytes == (checkpoints[-1].num_bytes if checkpoints else 0):
        return checkpoints
    if len(checkpoints) < _MAX_CHECKPOINTS:
        return [*checkpoints, new]
    ends = [START, *checkpoints, new]
    gaps = [
        after.num_bytes - before.num_bytes
        for before, after in zip(ends[:-2], ends[2:], strict=True)
    ]
    closest = gaps.index(min(gaps))
    return [*checkpoints[:closest], *checkpoints[closest + 1 :], new]


def write_run_file(path: str, run_file: RunFile) -> None:
    """Replaces a run file, durably.

    Raises:
      OSError: it cannot be written; the old one is there still.
    """
    temporary = path + ".tmp"
    try:
        write_durably(temporary, _to_text(run_file))
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


# A run file's last entry: the CRC-32 of the others, as they stand in it.
_RUN_FILE_CRC = "crc"


def _to_text(run_file: RunFile) -> str:
    content = asdict(run_file)
    return json.dumps({**content, _RUN_FILE_CRC: _crc_of(content)}, indent=1) + "\n"


def _crc_of(content: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(content).encode("ascii"))


def read_run_file(path: str) -> RunFile | None:
    """Reads what stands beside an output; None if it is missing or broken."""
    try:
        with open(path, encoding="utf-8") as reader:
            return _to_run_file(json.load(reader))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        logging.debug("%s: %s", path, error)
        return None


def _to_run_file(content: Any) -> RunFile:
    """Makes it of what JSON gives.

    Raises:
      ValueError, TypeError: it is not what this module wrote.
    """
    if not isinstance(content, dict):
        raise ValueError(f"expected an object, found {type(content).__name__}")
    crc = content.pop(_RUN_FILE_CRC, None)
    is_old = "checkpoints" not in content  # of a version without checksums
    if crc != (None if is_old else _crc_of(content)):
        raise ValueError("its checksum does not match")
    run_file = RunFile(**content)
    for field in fields(run_file):
        _check_field(field.name, getattr(run_file, field.name))
    if run_file.checkpoints is None:
        return run_file
    checkpoints = [Checkpoint(*counts) for counts in run_file.checkpoints]
    return replace(run_file, checkpoints=checkpoints)


def _check_field(name: str, found: Any) -> None:
    """Raises a ValueError if a run file cannot have that in this place."""
    if name == "checkpoints":
        is_right = found is None or all(map(_is_checkpoint, found))
    elif name.startswith("num_"):
        is_right = _is_count(found)
    else:
        expected = {"fingerprint": dict, "is_complete": bool, "host": str}
        is_right = isinstance(found, expected.get(name, int))
    if not is_right:
        raise ValueError(f"{name}: found {found!r}")


def _is_checkpoint(found: Any) -> bool:
    """Whether a list is one, also of a version that counted no text."""
    counts = found[:3] if found[3:] == [None] else found
    return len(counts) in (3, 4) and all(map(_is_count, counts))


def _is_count(found: Any) -> bool:
    return isinstance(found, int) and not isinstance(found, bool) and found >= 0
