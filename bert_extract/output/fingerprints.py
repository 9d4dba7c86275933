"""Two fingerprints -> sentences that say how the runs differ, for people."""

import json
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from typing import Any, TypeGuard

from bert_extract.errors import counted

# The keys of what is known of the inputs: [name], or [name, bytes, nanoseconds] of
# each; and their SHA-256, where they were read for it.
STAMPS = "input"
CONTENTS = "input_sha256"

_SECOND = 10**9  # in nanoseconds
# Characters of a checksum that are shown: enough to tell two apart.
_SHOWN_DIGITS = 12
# Input files that are named one by one.
_MOST_FILES = 5

# Keys that are no flags.
_NAMES = {
    "checkpoint_sha256": "the checkpoint",
    "vocab_sha256": "the vocab",
    "bert_config_sha256": "the config",
    "bert_extract": "the version of bert-extract",
    "tensorflow": "the version of TensorFlow",
    "device": "the device",
    "instruction_set": "the CPU's instruction set",  # of before version 0.2
    "arithmetic": "the kind of kernels that compute",
    "arithmetic_settings": "what the environment asks of them",
    "same_bytes": "whether a line has the same bytes in any batch",
    "model_pooling": "how the model pools, by its own files,",
    "library": "the library that makes the format",
}


def is_same(
    was: Mapping[str, Any], now: Mapping[str, Any], ignored: Collection[str]
) -> bool:
    """Whether nothing differs, but for what is ignored.

    Args:
      was: the fingerprint of the run that was, read from JSON.
      now: that of this run.
      ignored: keys.
    """
    now = as_read_back(now)
    keys = {*was, *now}.difference(ignored)
    return all(was.get(key) == now.get(key) for key in keys)


def is_of_same_names(was: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether nothing differs but what the inputs contain, and when they were written.

    Args:
      was: the fingerprint of the run that was, read from JSON.
      now: that of this run.
    """
    before, after = was.get(STAMPS), now.get(STAMPS)
    return (
        is_same(was, now, (STAMPS, CONTENTS))
        and _are_stamps(before)
        and _are_stamps(after)
        and _names(before) == _names(after)
    )


def as_read_back(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """Gives a fingerprint as JSON gives it back: with lists for tuples."""
    read_back: dict[str, Any] = json.loads(json.dumps(dict(fingerprint)))
    return read_back


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Says what differs, a line each.

    Args:
      was: the fingerprint of the run that was, read from JSON.
      now: that of this run, as JSON would give it back.
    """
    lines: list[str] = []
    for key in sorted({*was, *now}):
        before: Any = was.get(key)
        after: Any = now.get(key)
        if before == after:
            continue
        if key == CONTENTS:
            continue  # of the same size and time it counts as the same
        if key == STAMPS and _are_stamps(before) and _are_stamps(after):
            lines.extend(_input_differences(before, after))
        elif key.endswith("_sha256"):
            lines.append(
                f"{_NAMES.get(key, key)} has changed: its SHA-256 began with "
                f"{str(before)[:_SHOWN_DIGITS]}, and now with "
                f"{str(after)[:_SHOWN_DIGITS]}"
            )
        else:
            name = _NAMES.get(key, f"--{key}")
            lines.append(f"{name} was {_text(before)}, and is now {_text(after)}")
    return lines


def _text(value: Any) -> str:
    """A value as a command line has it."""
    if value in (None, "", {}):
        return "not given"
    if isinstance(value, dict):
        return " ".join(f"{name}={each}" for name, each in value.items())
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value)


def _names(stamps: list[list[Any]]) -> list[str]:
    return [stamp[0] for stamp in stamps]


def _are_stamps(inputs: Any) -> TypeGuard[list[list[Any]]]:
    """Whether it is what is known of inputs: [name], or [name, bytes, nanoseconds]."""
    return isinstance(inputs, list) and all(
        isinstance(stamp, list)
        and len(stamp) in (1, 3)
        and isinstance(stamp[0], str)
        and all(type(number) is int for number in stamp[1:])
        for stamp in inputs
    )


def _input_differences(was: list[list[Any]], now: list[list[Any]]) -> Iterator[str]:
    names_before, names_now = _names(was), _names(now)
    if names_before != names_now:
        yield (
            f"--input_file was {_listed(names_before)}, and is now {_listed(names_now)}"
        )
        return
    changed = [pair for pair in zip(was, now, strict=True) if pair[0] != pair[1]]
    for before, after in changed[:_MOST_FILES]:
        yield f"the input {before[0]} {_changes(before[1:], after[1:])}"
    if len(changed) > _MOST_FILES:
        yield f"{len(changed) - _MOST_FILES:,} more inputs have changed"


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_MOST_FILES])
    more = len(names) - _MOST_FILES
    return f"{shown} and {more:,} more" if more > 0 else shown


def _changes(before: list[int], after: list[int]) -> str:
    """What became of a file, by its bytes and the time of its last change."""
    if len(before) != len(after):
        return "is a file now and was none, or the other way round"
    sizes, times = zip(before, after, strict=True)
    changes = []
    had, has = (counted(size, "byte") for size in sizes)
    if had != has:
        changes.append(f"had {had} and has {has} now")
    if times[0] != times[1]:
        moments = [_local_time(time, "seconds") for time in times]
        if moments[0] == moments[1]:
            moments = [_local_time(time, "microseconds") for time in times]
        changes.append(f"was last changed {moments[0]}, and now {moments[1]}")
    return ", ".join(changes)


def _local_time(nanoseconds: int, precision: str) -> str:
    try:
        moment = datetime.fromtimestamp(nanoseconds // _SECOND).astimezone()
    except (ValueError, OverflowError, OSError):  # a file may say any time
        return f"{nanoseconds / _SECOND:.0f} seconds after 1970"
    micros = nanoseconds % _SECOND // 1000
    return moment.replace(microsecond=micros).isoformat(timespec=precision)
