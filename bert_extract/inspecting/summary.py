"""A file of records -> FileSummary: what is in it, how it was made, is it whole."""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bert_extract.errors import InputError, OutputError
from bert_extract.formats import HDF5, JSONL, PARQUET, Format, check_installed
from bert_extract.inspecting.json_contents import contents_of_json
from bert_extract.inspecting.words import as_readable
from bert_extract.options import Job, Options
from bert_extract.output import hdf5, parquet
from bert_extract.output.contents import Contents, Source
from bert_extract.output.frames import MAGIC, FrameReader
from bert_extract.output.reading import format_of_content, read_features
from bert_extract.output.record import Record
from bert_extract.output.run_file import RunFile, read_run_file

_PARTIAL = ".partial"
_RUN_FILE = ".run.json"
# What an output that cannot be appended to is made from.
FRAMES = "frames"
_MOST_TOKENS = 24  # of the first record that are shown
_MOST_INPUTS = 3
_SHOWN_DIGITS = 12  # of a checksum: enough to tell two apart


@dataclass(frozen=True, slots=True)
class FileSummary:
    """What is known of a file of records; `str` makes a text for people of it."""

    path: str
    format: str  # as --output_format takes it; "frames" for the work of such a run
    num_bytes: int
    is_whole: bool | None  # None: nobody can tell without reading all of it
    why: str  # how that is known, or what is wrong
    # None where nobody knows; `..._from` says how they are known: "counted",
    # "metadata", "numbers" (the last line's), "run file", "estimated", "unknown".
    num_lines: int | None
    lines_from: Source
    first_line: int | None  # linex_index of the first one
    last_line: int | None
    num_tokens: int | None
    tokens_from: Source
    layers: tuple[int | str, ...]
    size: int  # of one vector
    vector_dtype: str  # "float32", "float16", or "six decimals" of JSON
    has_offsets: bool
    has_texts: bool
    first_tokens: tuple[str, ...]
    # What the file beside it says of the run that made it; {} if there is none.
    made_with: Mapping[str, Any]

    def __str__(self) -> str:
        return "\n".join(_as_text(self))


def inspect_features(
    path: str | os.PathLike[str], *, exact: bool = False
) -> FileSummary:
    """Tells what is in a file, at once even if it has 100 GB.

    Args:
      path: a file that `bert-extract` wrote in any of its formats, or the partial file
        of a run that is not done, or JSON lines of upstream's extract_features.py.
      exact: whether every record is read, which takes as long as it takes: lines and
        tokens are counted, and what cannot be read is found.

    Returns:
      What is known. Numbers that are estimated say so.

    Raises:
      InputError: there is no such file, or it is none of these.
    """
    path = os.fspath(path)
    beginning = _beginning_of(path)
    if path.endswith(_RUN_FILE) and read_run_file(path) is not None:
        raise InputError(
            f"{path}: expected a file of records, found the file that tells how one "
            f"was made: inspect {path.removesuffix(_RUN_FILE)}"
        )
    is_frames = beginning.startswith(MAGIC)
    file_format = format_of_content(beginning) or JSONL
    run = read_run_file(path + _RUN_FILE)
    try:
        if is_frames:
            contents = _contents_of_frames(path, run)
        else:
            contents = _contents(path, file_format, beginning)
    except (OSError, OutputError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if exact and not is_frames:
        contents = _counted(path, contents)
    return _to_summary(path, FRAMES if is_frames else file_format.name, contents, run)


def _to_summary(
    path: str, format_name: str, contents: Contents, run: RunFile | None
) -> FileSummary:
    """Puts together what the file tells and what the one beside it does."""
    num_bytes = os.path.getsize(path)
    is_whole, why = _wholeness(path, num_bytes, contents, run)
    contents = _with_run(contents, run, is_whole)
    first = contents.first or Record(0, (), (), ())
    return FileSummary(
        path=path,
        format=format_name,
        num_bytes=num_bytes,
        is_whole=is_whole,
        why=why,
        num_lines=contents.num_lines,
        lines_from=contents.lines_from,
        first_line=contents.first_line,
        last_line=contents.last_line,
        num_tokens=contents.num_tokens,
        tokens_from=contents.tokens_from,
        layers=first.indexes,
        size=first.layers[0].shape[1] if first.layers else 0,
        vector_dtype=contents.vector_dtype,
        has_offsets=first.offsets is not None,
        has_texts=first.texts is not None,
        first_tokens=first.tokens[:_MOST_TOKENS],
        made_with={} if run is None else run.fingerprint,
    )


# --------------------------------------------------------------------- looking inside


def _beginning_of(path: str) -> bytes:
    """How a file begins.

    Raises:
      InputError: there is no such file, or it is a folder or a pipe.
    """
    if os.path.isdir(path):
        raise InputError(f"{path}: expected a file of records, found a folder")
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(
            f"{path}: expected a file of records, found what is no regular file: its "
            "end cannot be looked at before its beginning is gone"
        )
    try:
        with open(path, "rb") as file:
            return file.read(64)
    except FileNotFoundError as error:
        way_out = ""
        if os.path.exists(path + _PARTIAL):
            way_out = (
                f", but {path}{_PARTIAL} is there: the run that makes it is not done; "
                "inspect that one"
            )
        raise InputError(f"{path}: there is no such file{way_out}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _contents(path: str, file_format: Format, beginning: bytes) -> Contents:
    check_installed(file_format, InputError, path)
    if file_format is HDF5:
        return hdf5.contents(path)
    if file_format is PARQUET:
        return parquet.contents(path)
    try:
        return contents_of_json(path, file_format)
    except InputError as error:
        raise InputError(
            f"{path}: expected records in JSON lines (compressed or not), HDF5 or "
            f"Parquet, as bert-extract and extract_features.py write them; found a "
            f"file that begins with {beginning[:16]!r}: {error}"
        ) from error


def _contents_of_frames(path: str, run: RunFile | None) -> Contents:
    """Looks into the work of a run that makes HDF5 or Parquet at its end."""
    with FrameReader(path) as reader:
        frame = next(reader.frames())
        layers = tuple(reader.read_vectors(frame))
        first = dataclasses.replace(frame.part.record, layers=layers)
    return Contents(
        first=first,
        num_lines=None if run is None else run.num_records,
        lines_from="unknown" if run is None else "run file",
        first_line=first.linex_index,
        vector_dtype=frame.dtype,
    )


def _counted(path: str, contents: Contents) -> Contents:
    """Reads all records; keeps what is known if one cannot be read."""
    num_lines = num_tokens = 0
    first_line = last_line = None
    trouble = ""
    try:
        for record in read_features(path):
            num_lines += 1
            num_tokens += len(record.tokens)
            last_line = record.linex_index
            first_line = last_line if first_line is None else first_line
    except InputError as error:
        trouble = str(error).removeprefix(f"{path}: ")
    return dataclasses.replace(
        contents,
        num_lines=num_lines,
        lines_from="counted",
        first_line=first_line,
        last_line=last_line,
        num_tokens=num_tokens,
        tokens_from="counted",
        trouble=trouble or contents.trouble,
        is_whole=contents.is_whole and not trouble,
    )


def _wholeness(
    path: str, num_bytes: int, contents: Contents, run: RunFile | None
) -> tuple[bool | None, str]:
    """Whether a file was written to its end, and how that is known."""
    run_file = path + _RUN_FILE
    if path.endswith(_PARTIAL):
        return False, (
            "it is the work of a run that is not done, or was stopped: the same "
            "command with --resume goes on with it"
        )
    if contents.trouble:
        return False, contents.trouble
    if run is not None and run.num_bytes != num_bytes:
        return False, (
            f"it had {run.num_bytes:,} bytes when it was complete, as {run_file} says"
        )
    if run is not None and run.is_complete:
        return True, f"it has as many bytes as {run_file} says"
    if contents.is_whole:
        return True, "what is written last is there"
    if not num_bytes:
        return None, f"it is empty, and no {run_file} says that it has lines"
    return None, (
        f"it ends with a whole line, and no {run_file} says how many there were"
    )


def _with_run(
    contents: Contents, run: RunFile | None, is_whole: bool | None
) -> Contents:
    """Takes the number of lines from the run file, where they were not counted."""
    if run is None or not is_whole or contents.lines_from == "counted":
        return contents
    return dataclasses.replace(
        contents, num_lines=run.num_records, lines_from="run file"
    )


# --------------------------------------------------------------------------- as text


def _as_text(summary: FileSummary) -> Iterator[str]:
    whole = {True: "yes", False: "no", None: "it seems"}[summary.is_whole]
    yield f"{summary.path}: {summary.format}, {summary.num_bytes:,} bytes"
    yield f"  whole    {whole}: {summary.why}"
    yield f"  lines    {_number(summary.num_lines, summary.lines_from)}" + (
        ""
        if summary.first_line is None or summary.last_line is None
        else f", numbered {summary.first_line:,} to {summary.last_line:,}"
    )
    yield f"  tokens   {_number(summary.num_tokens, summary.tokens_from)}"
    layers = ", ".join(map(str, summary.layers)) or "none found"
    yield f"  layers   {layers}" + (
        f": {summary.size:,} values each, {summary.vector_dtype}"
        if summary.size
        else ""
    )
    also = [
        *(["where they stand in the line (offsets)"] if summary.has_offsets else []),
        *(["which text of a pair"] if summary.has_texts else []),
    ]
    if also:
        yield f"  also     {'; '.join(also)}"
    yield from _made_lines(summary.made_with)
    yield f"  begins   {' '.join(map(as_readable, summary.first_tokens))}"


def _number(number: int | None, source: Source) -> str:
    if number is None:
        return "unknown"
    if source == "estimated":
        # More digits would say more than is known.
        digits = max(0, len(str(number)) - 3)
        return f"about {round(number, -digits):,} (estimated from samples)"
    return f"{number:,}"


def _made_lines(made_with: Mapping[str, Any]) -> Iterator[str]:
    """Says how a file was made: from what, by what, with which flags."""
    if not made_with:
        return
    names = [str(stamp[0]) for stamp in made_with.get("input") or () if stamp]
    if names:
        more = f" and {len(names) - _MOST_INPUTS:,} more" * (len(names) > _MOST_INPUTS)
        yield f"  from     {', '.join(names[:_MOST_INPUTS])}{more}"
    versions = [
        f"{title} {made_with[key]}"
        for key, title in (
            ("bert_extract", "bert-extract"),
            ("tensorflow", "TensorFlow"),
            ("device", "on"),
        )
        if made_with.get(key)
    ]
    checksum = str(made_with.get("checkpoint_sha256", ""))[:_SHOWN_DIGITS]
    if checksum:
        versions.append(f"checkpoint {checksum}...")
    yield f"  made by  {', '.join(versions)}"
    flags = [*_flags(made_with)]
    if flags:
        yield f"  with     {' '.join(flags)}"


def _flags(made_with: Mapping[str, Any]) -> Iterator[str]:
    """The flags that are not as they are by default, and the layers."""
    for options_class in (Options, Job):
        for option in dataclasses.fields(options_class):
            value = made_with.get(option.name)
            if isinstance(value, list):
                value = ",".join(map(str, value))
            is_default = value in (None, "", option.default)
            if not is_default or (option.name == "layers" and value):
                text = str(value).lower() if isinstance(value, bool) else value
                yield f"--{option.name}={text}"
