"""Flags -> Options and Job -> FeatureExtractor; exit codes."""

import contextlib
import dataclasses
import os
import signal
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import IO, Any, NoReturn

from absl import flags

from bert_extract import logs
from bert_extract.errors import BertExtractError, OptionsError
from bert_extract.model import arithmetic
from bert_extract.options import Job, Options, help_of
from bert_extract.parsing import CommandFlags, define_bool, define_integer, parse
from bert_extract.progress import Summary, summarizing
from bert_extract.version import __version__

EXIT_FAILED = 1
EXIT_USAGE = 2
# What a shell reports of a command that SIGPIPE ended.
EXIT_CLOSED_PIPE = 141

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_USAGE = """\
Writes per-token BERT vectors of text lines to JSONL.

bert-extract --input_file=input.txt --output_file=output.jsonl \\
  --model_dir=uncased_L-12_H-768_A-12

Exit codes: 0 done, 1 failed, 2 wrong flags, 130 and 143 stopped by SIGINT and
SIGTERM, 141 the reader of a pipe has gone.
"""

_FLAGFILE_HELP = (
    "A file with flags, one a line, inserted in place of this flag. It may name other "
    "flagfiles, from where the command runs or else from where it lies itself."
)
_CHECK_HELP = (
    "Whether the command line is checked, and nothing else done: 0 is the exit code if "
    "it could be carried out, as far as can be said without opening a file."
)


@dataclasses.dataclass(frozen=True)
class _OldFlag:
    """A flag of the original that has no meaning here, and is taken all the same."""

    name: str
    default: Any
    help: str


_OLD_FLAGS = (
    _OldFlag(
        "use_tpu",
        False,
        "Must be false: this tool runs on GPU and CPU. It is here so that old command "
        "lines keep working.",
    ),
    _OldFlag(
        "master",
        None,
        "Changes nothing: it named a TPU's master for the original. It is here so "
        "that old command lines keep working.",
    ),
    _OldFlag(
        "num_tpu_cores",
        8,
        "Changes nothing: it counted a TPU's cores for the original. It is here so "
        "that old command lines keep working.",
    ),
    _OldFlag(
        "use_one_hot_embeddings",
        False,
        "Changes nothing: the vectors are the same either way. It is here so that old "
        "command lines keep working.",
    ),
)

# Flags that mean something only beside another one with this value. `Options` refuses
# other values than the defaults; a flag that is there says more than its value.
_BESIDE = (
    ("word_pooling", "unit", "word"),
    ("sentence_pooling", "unit", "sentence"),
    ("doc_stride", "long_text", "window"),
)


def make_flags() -> flags.FlagValues:
    """Defines a flag for each field of `Options` and `Job`, and the original's rest.

    A flag that has two names is there under both.
    """
    values = CommandFlags()
    for options_class in (Job, Options):
        for option in dataclasses.fields(options_class):
            _define(
                values, option.name, option.default, help_of(option), option.metadata
            )
    for old in _OLD_FLAGS:
        _define(values, old.name, old.default, old.help, {})
    logs.define_flags(values)
    define_bool(values, "only_check_args", False, _CHECK_HELP)
    define_bool(values, "help", False, "Shows this text and ends.", short_name="h")
    define_bool(values, "version", False, "Shows the version of this tool.")
    flags.DEFINE_string("flagfile", "", _FLAGFILE_HELP, flag_values=values)
    return values


def _define(
    values: flags.FlagValues, name: str, default: Any, help_text: str, metadata: Any
) -> None:
    choices = metadata.get("choices")
    if choices:
        flags.DEFINE_enum(name, default, choices, help_text, flag_values=values)
    elif isinstance(default, bool) or metadata.get("is_bool"):
        define_bool(values, name, default, help_text)
    elif isinstance(default, int):
        define_integer(values, name, default, help_text)
    else:
        flags.DEFINE_string(name, default, help_text, flag_values=values)


def help_text() -> str:
    """What `--help` shows: every flag with its default and a sentence."""
    values = make_flags()
    paragraphs = [_USAGE]
    for name in values:
        flag = values[name]
        if flag.name != name:
            continue  # another name of one that is listed
        default = "" if flag.default in (None, "") else f" (default {flag.default})"
        if isinstance(flag.default, bool):
            default = f" (default {str(flag.default).lower()})"
        # absl begins the help of a flag with choices with "<a|b>: ", which is enough.
        paragraphs.append(
            f"--{name}{default}\n"
            + textwrap.fill(flag.help, 79, initial_indent="  ", subsequent_indent="  ")
        )
    return "\n".join(paragraphs) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code.

    Args:
      argv: the command line, the program's name first; `sys.argv` by default.
    """
    values = make_flags()
    argv = sys.argv if argv is None else argv
    if len(argv) == 1:
        print(f"{_USAGE}\n--help lists the flags.", file=sys.stderr)
        return EXIT_USAGE
    try:
        positional = parse(values, argv)
    except OptionsError as error:
        return _complain(f"{error} (--help lists the flags)", EXIT_USAGE)
    if values["help"].value:
        print(help_text(), end="")
        return 0
    if values["version"].value:
        print(f"bert-extract {__version__}")
        return 0
    if positional:
        return _complain(
            f"every argument is a flag, as in --input_file=FILE; found "
            f"{positional[0]!r} (--help lists the flags)",
            EXIT_USAGE,
        )
    if values["use_tpu"].value:
        return _complain(
            "--use_tpu=true: this tool runs on GPU and CPU; leave the flag out",
            EXIT_USAGE,
        )
    options = _from_flags(Options, values)
    misplaced = _misplaced(options, values)
    if misplaced:
        return _complain(misplaced, EXIT_USAGE)
    job = _from_flags(Job, values)
    try:
        if values["only_check_args"].value:
            options.check()
            job.check()
            return 0
        with logs.logging_as_asked(values):
            return _run(options, job, values.flagfiles)
    except OptionsError as error:
        return _complain(str(error), EXIT_USAGE)


def _misplaced(options: Options, values: flags.FlagValues) -> str:
    """What to say of a flag that would change nothing, whatever its value; or ""."""
    if options.wants_pooler and values["layers"].present:
        return (
            "--layers: with --sentence_pooling=pooler there are no layers to choose, "
            "the pooler takes the last one; leave one of the two flags out"
        )
    for name, other, wanted in _BESIDE:
        found = getattr(options, other)
        if values[name].present and found != wanted:
            return (
                f"--{name}={values[name].value} is for --{other}={wanted}; found "
                f"--{other}={found}"
            )
    return ""


def _from_flags(options_class: Any, values: flags.FlagValues) -> Any:
    names = [option.name for option in dataclasses.fields(options_class)]
    return options_class(**{name: values[name].value for name in names})


def _run(options: Options, job: Job, flagfiles: Sequence[str]) -> int:
    _Stopped.last = None
    for number in _STOP_SIGNALS:
        # A shell without job control starts "command &" with SIGINT ignored, and
        # nobody may be stopped by what they ignore.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop)
    summaries: list[Summary] = []
    try:
        with summarizing(options, job, flagfiles) as summaries:
            _run_job(options, job, summaries, flagfiles)
    except OptionsError as error:
        return _complain(str(error), EXIT_USAGE)
    except BertExtractError as error:
        _complain(str(error), EXIT_FAILED)
        _say_how_to_go_on(summaries)
        return EXIT_FAILED
    except MemoryError:
        _complain(
            "there is not enough memory: give the job more, or fewer --num_threads, "
            "fewer --layers or a smaller --max_seq_length",
            EXIT_FAILED,
        )
        _say_how_to_go_on(summaries)
        return EXIT_FAILED
    except BrokenPipeError:
        return EXIT_CLOSED_PIPE
    except _Stopped as stopped:
        return _die_of(stopped.number, summaries)
    failed = [summary for summary in summaries if summary.error]
    if failed:
        names = ", ".join(summary.output_file for summary in failed)
        _complain(
            f"{len(failed)} of {len(summaries)} outputs failed: {names}", EXIT_FAILED
        )
        _say_how_to_go_on(failed)
        return EXIT_FAILED
    return 0


def _run_job(
    options: Options, job: Job, summaries: list[Summary], flagfiles: Sequence[str]
) -> None:
    options.check()
    job.check()
    with _silence(), _no_search_for_a_temporary_folder():
        arithmetic.choose_kernels()
        # Only now: TensorFlow takes seconds to import, and `--help` none.
        _import_tensorflow()

        from bert_extract.engine import Engine
        from bert_extract.jobs import run_job

    if _Stopped.last is not None:  # some library's import caught it
        raise _Stopped.last
    run_job(Engine(options), job, summaries, flagfiles)


def _import_tensorflow() -> None:
    """Imports it, for what it says meanwhile.

    Raises:
      BertExtractError: it cannot be loaded. What Python raises then depends on which of
        its libraries comes first.
    """
    try:
        import tensorflow as tf

        try:
            import tensorflow_text  # noqa: F401 - the import is all
        except tf.errors.OpError as error:
            raise ImportError(error.message) from error
    except (ImportError, MemoryError, OSError, SystemError) as error:
        reason = str(error) or type(error).__name__
        raise BertExtractError(
            f"TensorFlow cannot be loaded: {reason}. It needs 1 GB of memory, and 3 GB "
            "of address space (ulimit -v, or a job's limit); if there is as much, "
            "install bert-extract again, with the versions that it asks for"
        ) from error


class _Stopped(BaseException):
    """A signal asked for the end. Not an Exception: nobody else may catch it."""

    last: "_Stopped | None" = None

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    """The first signal ends the run in order, a second one at once."""
    for other in _STOP_SIGNALS:
        if signal.getsignal(other) != signal.SIG_IGN:
            signal.signal(other, signal.SIG_DFL)
    _Stopped.last = _Stopped(number)
    raise _Stopped.last


def _die_of(number: int, summaries: Sequence[Summary]) -> int:
    """Ends as the signal would have, so that shells and schedulers see which it was."""
    _complain(f"stopped by {signal.Signals(number).name}", 128 + number)
    _say_how_to_go_on(summaries)
    sys.stderr.flush()
    os.kill(os.getpid(), number)
    return 128 + number


def _say_how_to_go_on(summaries: Sequence[Summary]) -> None:
    for summary in summaries:
        if summary.resumable_lines:
            how = "the same command with --resume goes on after them"
            if summary.needs_same_input:
                how = (
                    "--resume goes on after them only with the very input that they "
                    "were made from, its size and time included; with another one, "
                    "run without --resume, from the beginning"
                )
            _say(
                f"{summary.output_file}.partial holds "
                f"{summary.resumable_lines:,} lines; {how}"
            )


def _complain(message: str, exit_code: int) -> int:
    _say(message)
    return exit_code


def _say(message: str) -> None:
    print(f"bert-extract: {message}", file=sys.stderr)
    logs.keep(message)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keeps the C++ code of a library that is being imported from standard error.

    TensorFlow's greets with four lines there whatever TF_CPP_MIN_LOG_LEVEL says. They
    are shown after all if the import fails.
    """
    sys.stderr.flush()
    own_stderr = os.dup(2)
    with _unnamed_file() as chatter:
        os.dup2(chatter.fileno(), 2)
        try:
            yield
        except _Stopped:
            raise  # nobody asks what it would have said
        except BaseException:
            chatter.seek(0)
            os.write(own_stderr, chatter.read())
            raise
        finally:
            os.dup2(own_stderr, 2)
            os.close(own_stderr)


@contextlib.contextmanager
def _no_search_for_a_temporary_folder() -> Iterator[None]:
    """Keeps TensorFlow's import from writing a file to find out where it may.

    It wants to know the folder for temporary files, never uses it, and would fail
    where there is none.
    """
    tempdir = tempfile.tempdir
    tempfile.tempdir = tempdir or os.curdir
    try:
        yield
    finally:
        tempfile.tempdir = tempdir


def _unnamed_file() -> IO[bytes]:
    if hasattr(os, "memfd_create"):  # needs no folder that can be written to
        return open(os.memfd_create("stderr"), "w+b")
    return tempfile.TemporaryFile()


def _open_closed_descriptors() -> None:
    """Gives the null device to standard streams that the caller closed (2>&-).

    Else the next file that is opened, the output for one, would get the number of
    standard error, and TensorFlow writes there.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 - it stays open


def run() -> NoReturn:
    """The console script."""
    _open_closed_descriptors()
    try:
        exit_code = main()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # as it is after >&-
                stream.flush()
    except BrokenPipeError:  # --help | true
        exit_code = EXIT_CLOSED_PIPE
    # Threads may still be inside TensorFlow; nothing of theirs is wanted any more.
    os._exit(exit_code)


if __name__ == "__main__":
    run()
