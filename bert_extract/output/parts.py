"""Parts of an output, in a folder: each is whole or not there, whoever wrote it.

    part-000000-000000000000.jsonl   a split's records; the name says which split
    _told/part-....json              what stands in that part; it is there before it,
                                     and until it stands in the manifest
    _temporary/RUN/                  what workers are writing
    _run.json                        what the run is
    _manifest.json, _SUCCESS         all parts, in order; the job is done

Readers of folders pass over names that begin with "_". A part is written in the folder
of its run in `_temporary`, and then renamed; that is all a file system must do at once.
Two workers that did the same split wrote the same part, and the second rename changes
nothing. The driver takes the folder of its run away before it says that the job is
done, and a new driver that of the one before: a worker that nobody waits for any more
finds no place to rename from.
"""

import contextlib
import fcntl
import functools
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from bert_extract.errors import InputError, OutputError
from bert_extract.formats import Format
from bert_extract.output.append_file import (
    crash_point,
    explaining,
    sync_folder,
    write_durably,
)

SUFFIX = ".parts"  # behind the output's name
SUCCESS = "_SUCCESS"
_MANIFEST, _RUN, _LOCK = "_manifest.json", "_run.json", "_lock"
_TOLD, _TEMPORARY = "_told", "_temporary"
_PART = re.compile(r"part-\d{6,}-\d{12,}\.[a-z0-9.]+")
# How `_run.json` begins: what tells that a folder is ours.
_RUN_START = '{"bert_extract_parts": 1,'


@dataclass(frozen=True, slots=True)
class Part:
    """What is known of a part that is in its place."""

    name: str
    first_index: int  # linex_index of its first line
    num_lines: int
    num_bytes: int
    crc: int | None  # CRC-32 of its bytes; None of a format that is never joined
    arithmetic: Mapping[str, Any]  # what its bytes depend on besides the run
    node: str  # where it was made


def part_name(file_number: int, first_line: int, output_format: Format) -> str:
    """The name of a split's part; sorted, names are in the input's order.

    Args:
      file_number: of the input's files, from 0.
      first_line: the index of the split's first line in its file.
      output_format: gives the suffix.
    """
    return f"part-{file_number:06d}-{first_line:012d}{output_format.suffixes[0]}"


def is_parts_folder(path: str) -> bool:
    """Whether a run made this folder for its parts."""
    try:
        with open(os.path.join(path, _RUN), encoding="utf-8") as reader:
            return reader.read(len(_RUN_START)) == _RUN_START
    except (OSError, UnicodeDecodeError):
        return False


# ------------------------------------------------------------------------ the worker


def temporary_file(folder: str, run: str, name: str) -> str:
    """Where a worker of a run writes a part before it is one."""
    return os.path.join(folder, _TEMPORARY, run, name)


def commit(folder: str, temporary: str, part: Part) -> None:
    """Puts a part in its place; a second time, it is replaced by its like.

    Args:
      folder: of the parts.
      temporary: the whole part, durable, as `temporary_file` names it.
      part: what is known of it.

    Raises:
      OutputError: the part cannot be put there, as when the run is over.
    """
    told = os.path.join(folder, _TOLD, f"{part.name}.json")
    with explaining(os.path.join(folder, part.name), part.num_bytes):
        beside = f"{temporary}.json"
        write_durably(beside, json.dumps(asdict(part)))
        os.replace(beside, told)
        crash_point("told")
        os.replace(temporary, os.path.join(folder, part.name))
        sync_folder(folder)
        crash_point("committed")


# ------------------------------------------------------------------------ the driver


class PartsFolder:
    """The folder as the driver of a run has it; no other driver has it meanwhile.

    Attributes:
      path: the folder.
      settings: what the run keeps for those that go on with it.
    """

    def __init__(self, path: str) -> None:
        """Makes the folder, if it is not there, and locks it.

        Raises:
          OutputError: it cannot be made, is of somebody else, or another driver has it.
        """
        self.path = path
        self.settings: dict[str, Any] = {}
        with explaining(path):
            os.makedirs(path, exist_ok=True)
            if os.listdir(path) not in ([], [_LOCK]) and not is_parts_folder(path):
                raise OutputError(
                    f"{path}: expected a folder of parts that this tool made, or none; "
                    f"found one with {sorted(os.listdir(path))[0]} and no {_RUN}. Move "
                    "it away, or give another --output_file"
                )
            self._lock = os.open(
                os.path.join(path, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666
            )
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise OutputError(
                f"{path}: another run is writing these parts right now; wait for it, "
                "or write to another file"
            ) from None
        except OSError:
            pass  # some network file systems are mounted without locks

    def close(self) -> None:
        """Lets another driver have it."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # -- what an earlier run left

    def read_run(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Reads what the run was that began here: its fingerprint and its settings.

        Returns:
          None if there was none.

        Raises:
          OutputError: it cannot be read.
        """
        path = os.path.join(self.path, _RUN)
        try:
            with open(path, encoding="utf-8") as reader:
                run = json.load(reader)
            return dict(run["fingerprint"]), dict(run["settings"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise OutputError(
                f"{path}: cannot be read ({error}): --resume cannot tell which run "
                "made the parts beside it. Run without --resume to start over"
            ) from error

    def find_parts(self) -> set[str]:
        """The names of the parts that are there."""
        with explaining(self.path):
            return {name for name in os.listdir(self.path) if _PART.fullmatch(name)}

    def is_complete(self) -> bool:
        """Whether the job was done."""
        return os.path.exists(os.path.join(self.path, SUCCESS))

    def read_part(self, name: str) -> Part | None:
        """What was told of a part; None if the two do not go together."""
        told = os.path.join(self.path, _TOLD, f"{name}.json")
        try:
            with open(told, encoding="utf-8") as reader:
                part = _to_part(json.load(reader))
        except FileNotFoundError:
            return self._if_there(self._listed.get(name))
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        return self._if_there(part) if part.name == name else None

    def _if_there(self, part: Part | None) -> Part | None:
        if part is None:
            return None
        try:
            size = os.path.getsize(os.path.join(self.path, part.name))
        except OSError:
            return None
        return part if part.num_bytes == size else None

    @functools.cached_property
    def _listed(self) -> dict[str, Part]:
        """The parts of a job that was done, which are told of in the manifest alone."""
        try:
            return {part.name: part for part in _read_rows(self.path)}
        except InputError:
            return {}

    # -- a run

    def begin(
        self, run: str, fingerprint: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> None:
        """Makes room for a run; parts that are there stay.

        Args:
          run: a name that no other run has.
          fingerprint: what all parts' bytes depend on.
          settings: what who goes on with it must know besides.
        """
        self.settings = dict(settings)
        with explaining(self.path):
            self._clear_temporary()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self.path, SUCCESS))
            os.makedirs(os.path.join(self.path, _TOLD), exist_ok=True)
            os.makedirs(os.path.join(self.path, _TEMPORARY, run))
            text = json.dumps({"fingerprint": dict(fingerprint), "settings": settings})
            temporary = os.path.join(self.path, _TEMPORARY, run, _RUN)
            write_durably(temporary, f"{_RUN_START} {text[1:]}\n")
            os.replace(temporary, os.path.join(self.path, _RUN))
            sync_folder(self.path)

    def discard(self) -> int:
        """Takes away all parts of earlier runs; returns how many there were."""
        with explaining(self.path):
            # First: a worker of the earlier run may be about to put a part there.
            self._clear_temporary()
            names = self.find_parts()
            for name in (SUCCESS, _MANIFEST):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(self.path, name))
            for name in names:
                os.unlink(os.path.join(self.path, name))
            shutil.rmtree(os.path.join(self.path, _TOLD), ignore_errors=True)
        return len(names)

    def end_run(self) -> None:
        """Takes away what workers were writing: no part is put in its place after."""
        with explaining(self.path):
            self._clear_temporary()

    def finish(self, parts: Sequence[Part], fingerprint: Mapping[str, Any]) -> None:
        """Says that these parts, in this order, are the whole output.

        Args:
          parts: all of them.
          fingerprint: what their bytes depend on.
        """
        self.end_run()
        arithmetics = arithmetics_of(parts)
        manifest = {
            "bert_extract": "parts",
            "fingerprint": dict(fingerprint),
            "num_lines": sum(part.num_lines for part in parts),
            "arithmetics": arithmetics,
            "same_arithmetic": len(arithmetics) <= 1,
            "fields": list(_ROW),
            "parts": [
                [*(getattr(part, name) for name in _ROW[:-1]), arithmetics.index(kind)]
                for part in parts
                for kind in (dict(part.arithmetic),)
            ],
        }
        with explaining(self.path):
            temporary = os.path.join(self.path, f"{_MANIFEST}.tmp")
            write_durably(temporary, json.dumps(manifest) + "\n")
            os.replace(temporary, os.path.join(self.path, _MANIFEST))
            write_durably(os.path.join(self.path, SUCCESS), "")
            sync_folder(self.path)
            # Last, as it may take minutes: all of it stands in the manifest, too.
            shutil.rmtree(os.path.join(self.path, _TOLD), ignore_errors=True)

    def remove(self) -> None:
        """Takes the folder away, when the output is in its place.

        What is there besides, and is not ours, stays.
        """
        self.discard()
        with explaining(self.path):
            for name in (_RUN, f"{_MANIFEST}.tmp", _LOCK):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(self.path, name))
            with contextlib.suppress(OSError):
                os.rmdir(self.path)
        self.close()

    def _clear_temporary(self) -> None:
        path = os.path.join(self.path, _TEMPORARY)
        # A worker that is still writing may put a file there meanwhile.
        for _ in range(3):
            shutil.rmtree(path, ignore_errors=True)
            if _has_only_phantoms(path):
                return
        shutil.rmtree(path)


def _has_only_phantoms(path: str) -> bool:
    """Whether there is nothing in a folder, or what NFS calls files that are gone.

    It keeps them until whoever has them open closes them, and the folder with them.
    """
    names = (name for _, _, names in os.walk(path) for name in names)
    return all(name.startswith(".nfs") for name in names)


def arithmetics_of(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """With which arithmetics parts were made, the first one's first."""
    found: list[dict[str, Any]] = []
    for part in parts:
        if part.arithmetic not in found:
            found.append(dict(part.arithmetic))
    return found


def fingerprint_of_parts(
    fingerprint: Mapping[str, Any], arithmetics: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What the bytes of all parts together depend on.

    Args:
      fingerprint: what each part's depend on.
      arithmetics: with which they were made, see `arithmetics_of`; of one alone it is
        the fingerprint of a run in one process.
    """
    if len(arithmetics) == 1:
        return {**fingerprint, **arithmetics[0]}
    return {**fingerprint, "arithmetic": list(arithmetics)}


# ------------------------------------------------------------------------ the reader

# What the manifest has of each part; the last one is a place in "arithmetics".
_ROW = ("name", "first_index", "num_lines", "num_bytes", "crc", "node", "arithmetic")


def read_manifest(folder: str) -> list[Part]:
    """Reads which parts a folder has, in order.

    Raises:
      InputError: the job was not done, or its manifest is broken.
    """
    if not os.path.exists(os.path.join(folder, SUCCESS)):
        found = (
            "a run that did not end" if is_parts_folder(folder) else "something else"
        )
        raise InputError(
            f"{folder}: expected a file of records, or a folder of parts with {SUCCESS}"
            f" in it; found a folder of {found}"
            + (", which --resume goes on with" * is_parts_folder(folder))
        )
    return _read_rows(folder)


def _read_rows(folder: str) -> list[Part]:
    """Reads a manifest.

    Raises:
      InputError: it cannot be read, or is broken.
    """
    path = os.path.join(folder, _MANIFEST)
    try:
        with open(path, encoding="utf-8") as reader:
            manifest = json.load(reader)
        kinds = manifest["arithmetics"]
        return [
            _to_part(
                {**dict(zip(_ROW, row, strict=True)), "arithmetic": kinds[row[-1]]}
            )
            for row in manifest["parts"]
        ]
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        RecursionError,
    ) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def parts_with(folder: str, lines: range | None) -> Iterator[str]:
    """Yields the paths of the parts that hold lines, in order.

    Args:
      folder: of a job that is done.
      lines: the linex_index of those that are wanted, ascending; None: all of them.

    Raises:
      InputError: see `read_manifest`; or a part is missing or was cut off.
    """
    for part in read_manifest(folder):
        end = part.first_index + part.num_lines
        if lines is not None and (
            not lines or end <= lines[0] or part.first_index > lines[-1]
        ):
            continue
        path = os.path.join(folder, part.name)
        try:
            size = os.path.getsize(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
        if size != part.num_bytes:
            raise InputError(
                f"{path}: has {size:,} bytes, and had {part.num_bytes:,} when it was "
                "made: it was cut off or changed"
            )
        yield path


def _to_part(content: Any) -> Part:
    """Makes it of what JSON gives.

    Raises:
      ValueError, TypeError: it is not what this module wrote.
    """
    part = Part(**content)
    for field in fields(part):
        found = getattr(part, field.name)
        if field.name in ("name", "node"):
            is_right = isinstance(found, str)
        elif field.name == "arithmetic":
            is_right = isinstance(found, dict)
        else:
            is_right = type(found) is int or (field.name == "crc" and found is None)
        if not is_right:
            raise ValueError(f"{field.name}: found {found!r}")
    if not _PART.fullmatch(part.name):
        raise ValueError(f"name: found {part.name!r}")
    return part
