"""What earlier runs left -> that all is there, or the parts to go on with."""

import contextlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from absl import logging

from bert_extract.errors import OutputError
from bert_extract.options import Job
from bert_extract.output import parts as parts_module
from bert_extract.output.fingerprints import CONTENTS
from bert_extract.output.parts import Part, PartsFolder
from bert_extract.output.resumable import (
    partial_fingerprint,
    refuse_difference,
    remove_partial,
    told_fingerprint,
)
from bert_extract.output.writers import find_complete

# Many small files of a network are read at once.
_NUM_READERS = 16
# What a fingerprint has from the machine that computes.
_OF_ARITHMETIC = ("device", "arithmetic", "arithmetic_settings", "same_bytes")


@dataclass(frozen=True)
class Kept:
    """What a run goes on with."""

    parts: dict[str, Part]  # by name
    split_bytes: int  # as the run before has chosen them; 0: there was none
    num_splits: int  # of its plan; 0 where that is not known

    @property
    def is_all(self) -> bool:
        """Whether the run before was stopped behind its last part."""
        return bool(self.parts) and len(self.parts) == self.num_splits


class Leftovers:
    """The output of a job, and its parts, as earlier runs left them."""

    def __init__(
        self, job: Job, output: str, fingerprint: Mapping[str, Any], joins: bool
    ) -> None:
        """Looks at nothing yet.

        Args:
          job: what is to be done.
          output: where, without links.
          fingerprint: what the bytes depend on besides the arithmetic.
          joins: whether parts become one file.
        """
        self._job = job
        self._output = output
        self._fingerprint = fingerprint
        self._joins = joins

    # -- all of it

    def find_complete(self) -> tuple[int, int] | None:
        """Finds an output that is there already.

        Returns:
          Its lines and bytes; None if something has to be done.

        Raises:
          OutputError: it is another run's.
        """
        folder = self._output + parts_module.SUFFIX
        if not self._joins:
            return self._find_parts(folder)
        found = self._find_joined()
        if found is not None and parts_module.is_parts_folder(folder):
            self._take_away(PartsFolder(folder))
        return found

    def _find_parts(self, folder: str) -> tuple[int, int] | None:
        """The lines and bytes of parts that are all there and are to stay."""
        if not os.path.exists(os.path.join(folder, parts_module.SUCCESS)):
            return None
        with contextlib.closing(PartsFolder(folder)) as opened:
            run = opened.read_run()
            if run is not None:
                refuse_difference(run[0], self._fingerprint, folder)
            parts = parts_module.read_manifest(folder)
            if len(_sound_parts(opened)) < len(parts):
                return None  # some were taken away or cut off
        if self._job.same_cpu and len(parts_module.arithmetics_of(parts)) > 1:
            return None
        num_lines = sum(part.num_lines for part in parts)
        return num_lines, sum(part.num_bytes for part in parts)

    def _take_away(self, folder: PartsFolder) -> None:
        """Takes away the parts of a run that was killed behind its join.

        A job that was done with `join` false is an output of its own, and stays.
        """
        with contextlib.closing(folder):
            run = folder.read_run()
            is_own = run is not None and run[0] == self._fingerprint
            if is_own and not folder.is_complete():
                folder.remove()

    def _find_joined(self) -> tuple[int, int] | None:
        """The lines and bytes of the output, if it is there and is this run's."""
        told = told_fingerprint(f"{self._output}.run.json")
        if told is None or not os.path.isfile(self._output):
            return None
        if self._job.same_cpu and isinstance(told.get("arithmetic"), list):
            logging.warning(
                "%s: was computed with several arithmetics, and is computed again, for "
                "--same_cpu",
                self._job.output_file,
            )
            return None
        # One process notes what the input contains, too.
        own_keys = (*_OF_ARITHMETIC, CONTENTS)
        arithmetic = {name: told[name] for name in own_keys if name in told}
        found = find_complete(self._output, {**self._fingerprint, **arithmetic})
        if found is None and not os.path.exists(self._output + parts_module.SUFFIX):
            own = {name: each for name, each in told.items() if name not in arithmetic}
            refuse_difference(own, self._fingerprint, self._output)
        return found

    # -- some of it

    def keep(self, folder: PartsFolder) -> Kept:
        """Finds out what can be gone on with: nothing, without `resume`.

        Raises:
          OutputError: the parts are another run's.
        """
        run = folder.read_run() if self._job.resume else None
        if run is None:
            return Kept({}, 0, 0)
        refuse_difference(run[0], self._fingerprint, folder.path)
        split_bytes = int(run[1]["split_bytes"])
        if self._job.split_bytes not in (0, split_bytes):
            raise OutputError(
                f"{folder.path}: --resume cannot go on, --split_bytes was "
                f"{split_bytes}, and is now {self._job.split_bytes}: leave it out"
            )
        parts = _sound_parts(folder)
        if self._job.same_cpu:
            parts = _of_one_arithmetic(parts, folder.path)
        return Kept(parts, split_bytes, int(run[1].get("num_splits", 0)))

    def forget_joined(self) -> None:
        """Takes away what was joined of parts that nobody will join."""
        told = partial_fingerprint(self._output)
        if told is None:
            return
        own = {name: each for name, each in told.items() if name not in _OF_ARITHMETIC}
        if own == self._fingerprint:
            remove_partial(self._output)


def discard(folder: PartsFolder) -> None:
    """Takes away the parts of earlier runs, and says so."""
    num_parts = folder.discard()
    if num_parts:
        logging.warning(
            "%s: discarding what a stopped run left, %s parts; with --resume it "
            "would have gone on after them",
            folder.path,
            f"{num_parts:,}",
        )


def _of_one_arithmetic(parts: Mapping[str, Part], path: str) -> dict[str, Part]:
    """Leaves out those of another arithmetic than the first one's."""
    if not parts:
        return {}
    first = parts[min(parts)].arithmetic
    alike = {name: part for name, part in parts.items() if part.arithmetic == first}
    if len(alike) < len(parts):
        logging.warning(
            "%s: %s parts were computed with another arithmetic than the first "
            "one, and are computed again, for --same_cpu",
            path,
            f"{len(parts) - len(alike):,}",
        )
    return alike


def _sound_parts(folder: PartsFolder) -> dict[str, Part]:
    """The parts that are there and as long as they were made, by name."""
    with ThreadPoolExecutor(_NUM_READERS) as pool:
        parts = pool.map(folder.read_part, sorted(folder.find_parts()))
        return {part.name: part for part in parts if part is not None}
