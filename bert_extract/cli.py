"""Flags -> Options and Job -> a run, and what is said of it."""

import dataclasses
import gc
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

from absl import flags

from bert_extract import logs, process
from bert_extract.errors import BertExtractError, OptionsError, counted
from bert_extract.model import arithmetic
from bert_extract.options import Job, Options, help_of
from bert_extract.parsing import CommandFlags, define_bool, define_integer, parse
from bert_extract.process import EXIT_CLOSED_PIPE, EXIT_DONE, EXIT_FAILED, EXIT_USAGE
from bert_extract.progress import Summary, summarizing
from bert_extract.version import __version__

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
        return EXIT_DONE
    if values["version"].value:
        print(f"bert-extract {__version__}")
        return EXIT_DONE
    options, job = _from_flags(Options, values), _from_flags(Job, values)
    misuse = _misuse(positional, values) or _misplaced(options, values)
    if misuse:
        return _complain(misuse, EXIT_USAGE)
    try:
        if values["only_check_args"].value:
            options.check()
            job.check()
            return EXIT_DONE
        with logs.logging_as_asked(values):
            return _run(options, job, values.flagfiles)
    except OptionsError as error:
        return _complain(str(error), EXIT_USAGE)


def _misuse(positional: Sequence[str], values: flags.FlagValues) -> str:
    """What to say of arguments that are no flags, and of a TPU; or ""."""
    if positional:
        return (
            f"every argument is a flag, as in --input_file=FILE; found "
            f"{positional[0]!r} (--help lists the flags)"
        )
    if values["use_tpu"].value:
        return "--use_tpu=true: this tool runs on GPU and CPU; leave the flag out"
    return ""


def _misplaced(options: Options, values: flags.FlagValues) -> str:
    """What to say of a flag that would change nothing, whatever its value; or ""."""
    if options.pools_last_layer and values["layers"].present:
        return (
            f"--layers: with --sentence_pooling={options.sentence_pooling} there are "
            "no layers to choose, it takes the last one; leave one of the two flags out"
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
    process.stop_on_signals()
    summaries: list[Summary] = []
    try:
        with summarizing(options, job, flagfiles) as summaries:
            _run_job(options, job, summaries, flagfiles)
    except OptionsError as error:
        return _complain(str(error), EXIT_USAGE)
    except BertExtractError as error:
        return _fail(str(error), summaries)
    except MemoryError:
        return _fail(
            "there is not enough memory: give the job more, or fewer --num_threads, "
            "fewer --layers or a smaller --max_seq_length",
            summaries,
        )
    except BrokenPipeError:
        return EXIT_CLOSED_PIPE
    except process.Stopped as stopped:
        _fail(str(stopped), summaries)
        return process.die_of(stopped)
    failed = [summary for summary in summaries if summary.error]
    if failed:
        names = ", ".join(summary.output_file for summary in failed)
        return _fail(
            f"{len(failed)} of {len(summaries)} outputs failed: {names}", failed
        )
    return EXIT_DONE


def _run_job(
    options: Options, job: Job, summaries: list[Summary], flagfiles: Sequence[str]
) -> None:
    options.check()
    job.check()
    with process.silent_imports():
        arithmetic.choose_kernels()
        # Only now: TensorFlow takes seconds to import, and `--help` none.
        process.import_tensorflow()

        from bert_extract.cluster import driver
        from bert_extract.jobs import run_job
        from bert_extract.loaded_model import OpenedModel

    process.check_not_stopped()
    # What was imported stays: to look for garbage in all of it, again and again, took a
    # tenth of a run of short lines.
    gc.freeze()
    if job.runner == "ray":
        driver.run_job(options, job, summaries, flagfiles)
    else:
        run_job(OpenedModel(options), job, summaries, flagfiles)


def _fail(message: str, summaries: Sequence[Summary]) -> int:
    """Says what ended a run, and how each of its outputs can go on."""
    _say(message)
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
                f"{counted(summary.resumable_lines, 'line')}; {how}"
            )
    return EXIT_FAILED


def _complain(message: str, exit_code: int) -> int:
    _say(message)
    return exit_code


def _say(message: str) -> None:
    print(f"bert-extract: {message}", file=sys.stderr)
    logs.keep(message)


def run() -> NoReturn:
    """The console script."""
    process.run_and_exit(main)


if __name__ == "__main__":
    run()
