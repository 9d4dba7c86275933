"""What is read, what will be written -> a refusal where a file would be lost.

Nothing that a run reads is written by it, under whatever name; no two of its files are
one; and what stands at the name of a file that it writes is replaced only if it is
empty, or was written by this tool, or by the original. All of it is looked up before
anything is opened for writing.
"""

import contextlib
import glob
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass

from absl import logging

from bert_extract.errors import (
    BertExtractError,
    InputError,
    OptionsError,
    OutputError,
)
from bert_extract.files import is_remote, local_path, open_file
from bert_extract.formats import GZIP, ZSTANDARD, check_installed
from bert_extract.options import Job, Options
from bert_extract.output import streams
from bert_extract.output.compression import open_members
from bert_extract.output.frames import MAGIC as SPOOL_START
from bert_extract.output.parts import is_parts_folder
from bert_extract.output.reading import format_of_content, read_features
from bert_extract.output.streams import descriptor_of
from bert_extract.text import examples
from bert_extract.text.examples import STDIN, expand_input_files

# How our files begin; outputs in JSON lines as the original's do.
_RECORD_START = b'{"linex_index": '
_RUN_FILE_START = b'{\n "fingerprint": {'
_SUMMARY_START = b'{\n "bert_extract": "'
_LONGEST_START = 32
# The files that are read of a folder with a model.
_MODEL_FILE = re.compile(
    r"vocab\.txt|tokenizer\.json|tokenizer_config\.json|bert_config\.json|config\.json"
    r"|modules\.json|sentence_bert_config\.json|config_sentence_transformers\.json"
    r"|params\.yaml|checkpoint|.+\.(index|meta|data-\d{5}-of-\d{5})"
    r"|.+\.safetensors(\.index\.json)?"
)
_MODEL_FOLDERS = ("0_Transformer", "1_Pooling")
_BESIDE_VOCAB = ("tokenizer.json", "tokenizer_config.json")
# What stands beside an output, finished or not.
_BESIDE = (
    *(".run.json", ".partial", ".partial.whole", ".partial.run.json"),
    ".partial.run.json.tmp",
)
# A log file, as `logs` has absl name it.
_LOG_FILE = re.compile(r"bert-extract\..*\.log\.INFO\.\d{8}-\d{6}\.\d+")
_MOST_SHOWN = 5


@dataclass(frozen=True, slots=True)
class _NamedFile:
    """A name of a file, and what it is there for."""

    path: str
    role: str
    # (path, how it begins) -> whether what stands there may be replaced; None where
    # nothing does, or nobody asks.
    is_own: Callable[[str, bytes], bool] | None = None


# ------------------------------------------------------------------- what a run calls


def find_inputs(job: Job) -> tuple[str, ...]:
    """The files that a job reads; what this tool wrote is left out of globs.

    Raises:
      InputError: there is no such file, or a glob matches nothing else.
    """
    left_out: list[str] = []
    found = _expand(job, left_out)
    if left_out:
        more = len(left_out) - _MOST_SHOWN
        logging.info(
            "--input_file: left out because this tool wrote them: %s%s",
            ", ".join(left_out[:_MOST_SHOWN]),
            f" and {more:,} more" if more > 0 else "",
        )
    return found


def check_outputs(
    options: Options,
    job: Job,
    input_files: Iterable[str],
    output_files: Sequence[str],
    checkpoint_files: Iterable[str] = (),
    flagfiles: Iterable[str] = (),
) -> None:
    """Checks all that a job will write, but for its summary.

    Args:
      options: the model's files are read.
      job: whether it may overwrite what is not ours.
      input_files: are read.
      output_files: will be written, with what stands beside them meanwhile.
      checkpoint_files: are read, wherever the checkpoint was found; what the names of
        the options tell is known without.
      flagfiles: were read.

    Raises:
      OptionsError: one of these would replace what is read, another of them, or what
        this tool did not write.
    """
    way_out = f"give another --{'output_dir' if job.output_dir else 'output_file'}"
    there = _names_in(job.output_dir) if job.output_dir else None
    files = _Files(way_out)
    for named in _files_read(options, input_files):
        files.add_read(named)
    for path in checkpoint_files:
        files.add_read(_NamedFile(path, "--init_checkpoint"))
    for path in flagfiles:
        files.add_read(_NamedFile(path, "--flagfile"))
    lost: str | None = None
    for output_file in output_files:
        descriptor = descriptor_of(output_file)
        if descriptor is not None:
            files.check_stream(
                _NamedFile(streams.name_of(output_file), "the output"), descriptor
            )
        named_files = _files_of(output_file, there)
        for named in named_files:
            files.add_written(named)
        # Said when it is known that no input is in danger, which is worse.
        lost = lost or (None if job.overwrite else _first_lost(named_files, way_out))
    if lost:
        raise OptionsError(lost)


def check_again(job: Job, output_file: str) -> None:
    """Checks, right before it is begun, what an output would replace.

    Hours may have gone by since `check_outputs`.

    Raises:
      OutputError: something that this tool did not write has come there.
    """
    lost = _first_lost(_files_of(output_file), "give another name")
    if lost and not job.overwrite:
        raise OutputError(lost)


def check_summary(options: Options, job: Job, flagfiles: Iterable[str] = ()) -> None:
    """Checks the summary file of a job that may be wrong in every other respect.

    Args:
      options: the model's files are read.
      job: what it reads and writes besides.
      flagfiles: were read.

    Raises:
      OptionsError: it would replace what is read, something else that is written, or
        what this tool did not write.
    """
    way_out = "give another --summary_file"
    input_files: Sequence[str] = ()
    output_files: Sequence[str] = ()
    # What is wrong with them is said when they are needed.
    with contextlib.suppress(BertExtractError):
        if is_remote(job.input_file):
            input_files = _expand_here(job.input_file)
        elif job.input_file:
            input_files = _expand(job, [])
        output_files = job.output_files(input_files)
    files = _Files(way_out)
    for named in _files_read(options, input_files):
        files.add_read(named)
    for path in flagfiles:
        files.add_read(_NamedFile(path, "--flagfile"))
    for named in _files_of_summary(job.summary_file):
        files.add_written(named)
    for output_file in output_files:
        for named in _files_of(output_file):
            files.check_written(named)
    lost = _first_lost(_files_of_summary(job.summary_file), way_out)
    if lost and not job.overwrite:
        raise OptionsError(lost)


# ------------------------------------------------------------------- which are one file


class _Files:
    """Finds out that two names are those of one file."""

    def __init__(self, way_out: str) -> None:
        self._way_out = way_out
        self._read: dict[object, _NamedFile] = {}
        self._written: dict[object, _NamedFile] = {}
        self._real_folders: dict[str, str] = {}

    def add_read(self, named: _NamedFile) -> None:
        """Notes what is read."""
        for key in self._keys(named.path):
            self._read.setdefault(key, named)

    def add_written(self, named: _NamedFile) -> None:
        """Notes what will be written.

        Raises:
          OptionsError: it is noted already.
        """
        keys = self._check(named, self._keys(named.path))
        for key in keys:
            self._written[key] = named

    def check_written(self, named: _NamedFile) -> None:
        """Does what `add_written` does, for what was not read, and notes nothing."""
        for key in self._keys(named.path):
            if key in self._written:
                raise self._twice(self._written[key], named)

    def check_stream(self, named: _NamedFile, descriptor: int) -> None:
        """Refuses a redirection to what is read, as in `>> input.txt`."""
        self._check(named, _keys_of_descriptor(descriptor))

    def _check(self, named: _NamedFile, keys: list[object]) -> list[object]:
        for key in keys:
            if key in self._read:
                read = self._read[key]
                name = examples.name_of(read.path)
                is_same = named.path == name
                what = "it is read" if is_same else f"it is {name}, which is read"
                raise OptionsError(
                    f"{named.path} would be written ({named.role}), and {what} "
                    f"({read.role}): what is read would be lost; {self._way_out}"
                )
            if key in self._written:
                raise self._twice(self._written[key], named)
        return keys

    def _twice(self, one: _NamedFile, other: _NamedFile) -> OptionsError:
        return OptionsError(
            f"{one.path} ({one.role}) and {other.path} ({other.role}) are one file, "
            f"and both would be written; {self._way_out}"
        )

    def _keys(self, path: str) -> list[object]:
        """What two names of one file have in common."""
        if path == STDIN:
            return _keys_of_descriptor(0)
        local = local_path(path)
        if local is None:
            return [path]
        folder, name = os.path.split(local)
        real_folder = self._real_folders.get(folder)
        if real_folder is None:
            real_folder = os.path.realpath(folder)
            self._real_folders[folder] = real_folder
        real = os.path.join(real_folder, name)
        try:
            status = os.lstat(real)
            if stat.S_ISLNK(status.st_mode):
                real = os.path.realpath(real)
                status = os.stat(real)
        except OSError:  # it is not there
            return [real]
        return [real, (status.st_dev, status.st_ino)]


def _keys_of_descriptor(descriptor: int) -> list[object]:
    """A stream is a file if it was redirected to one."""
    try:
        status = os.fstat(descriptor)
    except OSError:  # it is closed
        return []
    if not stat.S_ISREG(status.st_mode):
        return []
    return [(status.st_dev, status.st_ino)]


# ----------------------------------------------------------------------- what is read


def _expand(job: Job, left_out: list[str]) -> tuple[str, ...]:
    remote = {job.output_file, job.summary_file}
    # Looking into what is far away takes time, and costs money.
    folder = job.output_dir.rstrip("/") if is_remote(job.output_dir) else None

    def is_left_out(path: str) -> bool:
        local = local_path(path)
        if local is not None:
            is_own = _is_own_file(local)
        elif path.rpartition("/")[0] == folder:
            is_own = _is_output(path, _start_of(path) or b"")
        else:
            is_own = path in remote
        if is_own:
            left_out.append(path)
        return is_own

    return expand_input_files(job.input_file, is_left_out)


def _expand_here(input_file: str) -> list[str]:
    """The names in it, with globs on this machine expanded; far away nobody looks."""
    found: list[str] = []
    for name in input_file.split(","):
        local = local_path(name)
        found += [name] if local is None else glob.glob(local) or [local]
    return found


def _files_read(options: Options, input_files: Iterable[str]) -> Iterator[_NamedFile]:
    for path in input_files:
        yield _NamedFile(path, "--input_file")
    for name in ("vocab_file", "bert_config_file"):
        path = getattr(options, name)
        if path:
            yield _NamedFile(path, f"--{name}")
    if options.vocab_file:
        folder = os.path.dirname(options.vocab_file)
        for name in _BESIDE_VOCAB:
            yield _NamedFile(os.path.join(folder, name), "beside --vocab_file")
    if options.init_checkpoint:
        for path in _checkpoint_files(options.init_checkpoint):
            yield _NamedFile(path, "--init_checkpoint")
    if options.model_dir:
        for path in _folder_files(options.model_dir):
            yield _NamedFile(path, "--model_dir")


def _checkpoint_files(init_checkpoint: str) -> Iterator[str]:
    yield init_checkpoint
    local = local_path(init_checkpoint)
    if local is None:
        return
    if os.path.isdir(local):
        yield from _folder_files(local)
        return
    folder, name = os.path.split(local)
    # Those of the prefix, and those that an index names.
    for path in _folder_files(folder or os.curdir):
        if os.path.basename(path).startswith(name) or path.endswith(".safetensors"):
            yield path


def _folder_files(folder: str) -> Iterator[str]:
    local = local_path(folder)
    if local is None:
        return
    for inner in (local, *(os.path.join(local, name) for name in _MODEL_FOLDERS)):
        with contextlib.suppress(OSError):  # it is not there
            for file_name in os.listdir(inner):
                if _MODEL_FILE.fullmatch(file_name):
                    yield os.path.join(inner, file_name)


# -------------------------------------------------------------------- what is written


def _names_in(output_dir: str) -> Set[str] | None:
    """What is in a folder: with 100,000 outputs it takes long to ask for each name."""
    local = local_path(output_dir)
    if local is None:
        return None
    try:
        return {*os.listdir(local)}
    except OSError:  # it is not there
        return set()


def _files_of(output_file: str, there: Set[str] | None = None) -> list[_NamedFile]:
    """The names under which an output is written, and what stands beside it.

    Args:
      output_file: as it was given.
      there: all that is in its folder, if that is known.
    """
    if descriptor_of(output_file) is not None:
        return []
    local = local_path(output_file)
    if local is None:
        return [_NamedFile(output_file, "the output")]
    if there is not None:
        name = os.path.basename(local)
        if there.isdisjoint([name, *(name + suffix for suffix in _BESIDE)]):
            return [_NamedFile(output_file, "the output")]
    if is_remote(output_file):
        return [_NamedFile(output_file, "the output", _is_output)]
    is_link = os.path.islink(local)
    if os.path.exists(local) and not os.path.isfile(local):
        return []  # a device or a pipe, to which nothing happens; or a folder
    beside = os.path.realpath(local) if is_link else local
    tells, unfinished = "the run's record", "the output while it is unfinished"
    kinds = (
        (tells, _is_run_file),
        (unfinished, _is_partial),
        (unfinished, _is_partial),
        (tells, _is_run_file),
        (tells, _is_cut_run_file),
    )
    return [
        _NamedFile(local, "the output", _is_output),
        *(
            _NamedFile(beside + suffix, role, is_own)
            for suffix, (role, is_own) in zip(_BESIDE, kinds, strict=True)
            if there is None or is_link or os.path.basename(local) + suffix in there
        ),
    ]


def _files_of_summary(summary_file: str) -> list[_NamedFile]:
    if os.path.exists(summary_file) and not os.path.isfile(summary_file):
        return []
    if is_stream(summary_file):
        return []
    is_link = os.path.islink(summary_file)
    beside = os.path.realpath(summary_file) if is_link else summary_file
    return [
        _NamedFile(summary_file, "the summary", _is_summary),
        _NamedFile(
            f"{beside}.tmp", "the summary while it is unfinished", _is_cut_summary
        ),
    ]


def is_stream(summary_file: str) -> bool:
    """Whether the summary goes to a standard stream, wherever that was redirected."""
    return summary_file != "-" and descriptor_of(summary_file) is not None


def _first_lost(named_files: Iterable[_NamedFile], way_out: str) -> str | None:
    """What to say of the first file there that is not ours to replace."""
    for named in named_files:
        local = local_path(named.path)
        if named.is_own is None or local is None or not os.path.isfile(local):
            continue
        start = _start_of(local)
        if start == b"" or (start is not None and named.is_own(local, start)):
            continue
        found = "cannot be read" if start is None else f"begins with {start!r}"
        return (
            f"{named.path}: {named.role} would replace this file, which this tool did "
            f"not write: it {found}. Move it away, {way_out}, or say --overwrite to "
            "replace it anyway"
        )
    return None


# ----------------------------------------------------------------------- what is ours


def _start_of(path: str) -> bytes | None:
    """How a file begins; None if it cannot be read."""
    try:
        with open_file(path) as reader:
            return reader.read(_LONGEST_START)
    except OSError:
        return None


def _is_own_file(path: str) -> bool:
    """Whether this tool wrote what lies there, whatever it is."""
    if not os.path.isfile(path):
        return is_parts_folder(path)
    if _LOG_FILE.fullmatch(os.path.basename(path)):
        return True
    start = _start_of(path)
    if not start:  # of an output of no lines, perhaps
        return _is_run_file("", _start_of(f"{path}.run.json") or b"")
    return (
        _is_output(path, start)
        or _is_run_file(path, start)
        or _is_summary(path, start)
        or (".partial" in path and _is_partial(path, start))
    )


def _is_output(path: str, start: bytes) -> bool:
    """Whether these are records, in any format; JSON lines may be the original's."""
    if start.startswith(_RECORD_START):
        return True
    found = format_of_content(start)
    if found is None:
        return False
    if _is_as_long_as_told(path):
        return True
    try:
        check_installed(found, InputError, path)
        if found in (GZIP, ZSTANDARD):
            with open_file(path) as file:
                text = open_members(file, found).read(len(_RECORD_START))
            return text in (b"", _RECORD_START)
        next(read_features(path), None)
    except (InputError, OSError):
        return False
    return True


def _is_as_long_as_told(path: str) -> bool:
    """Whether the run file beside an output is ours, and tells of this very size."""
    run_file = f"{path}.run.json"
    if not _is_run_file(run_file, _start_of(run_file) or b""):
        return False
    try:
        with open(run_file, encoding="utf-8") as reader:
            run = json.load(reader)
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(run, dict) and run.get("num_bytes") == os.path.getsize(path)


def _is_partial(path: str, start: bytes) -> bool:
    """Whether a run that was stopped left this: its beginning may be lost."""
    run_file = path.removesuffix(".whole") + ".run.json"
    return (
        _is_run_file(run_file, _start_of(run_file) or b"")
        or _RECORD_START.startswith(start)
        or start.startswith(SPOOL_START)
        or _is_output(path, start)
    )


def _is_run_file(path: str, start: bytes) -> bool:
    return start.startswith(_RUN_FILE_START)


def _is_cut_run_file(path: str, start: bytes) -> bool:
    """The same of one that was being written when the run died."""
    return start.startswith(_RUN_FILE_START[: len(start)])


def _is_summary(path: str, start: bytes) -> bool:
    return start.startswith(_SUMMARY_START)


def _is_cut_summary(path: str, start: bytes) -> bool:
    """The same of one that was being written when the run died."""
    return start.startswith(_SUMMARY_START[: len(start)])
