"""What the driver and the workers of a job tell each other."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bert_extract.cluster.plan import PlannedSplit
from bert_extract.options import Job, Options
from bert_extract.output.parts import Part


@dataclass(frozen=True)
class Setup:
    """What a worker needs to begin."""

    options: Options  # with absolute paths
    job: Job
    # What the worker must find too: checksums, versions.
    expected: Mapping[str, Any]
    folder: str  # of the parts
    run: str  # its name in the folder
    probe: str  # what the driver wrote there
    gpus: int  # 0 hides those that the machine has


@dataclass(frozen=True, slots=True)
class Opened:
    """A worker is ready."""

    node: str
    arithmetic: Mapping[str, Any]
    device: str  # for people
    num_threads: int
    json_kernel: str
    # What was said while the model was loaded, and whether it is a doubt.
    warnings: tuple[tuple[str, bool], ...]
    probe: str  # the file that the worker wrote, for the driver to find


@dataclass(frozen=True, slots=True)
class Refused:
    """A worker cannot begin: its node lacks something."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class Task:
    """A split, and what its part is called."""

    number: int  # of the plan's splits
    name: str
    planned: PlannedSplit


@dataclass(frozen=True, slots=True)
class Done:
    """A part is in its place."""

    part: Part
    counts: Mapping[str, int]  # of a Summary


@dataclass(frozen=True, slots=True)
class Failed:
    """A split could not be done."""

    reason: str
    # Whether it is the text that is wrong, and not the machine.
    is_of_input: bool = False
    # Whether the machine sees another input, and can do no split.
    is_of_node: bool = False


@dataclass(frozen=True, slots=True)
class Lost:
    """A worker is not there any more."""

    reason: str


Answer = Opened | Refused | Done | Failed | Lost | int
