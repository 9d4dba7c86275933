"""What is logged -> standard error, and the log file that absl's flags ask for."""

import contextlib
import logging as python_logging
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

from absl import flags, logging
from absl.logging import converter

from bert_extract import doubt
from bert_extract.errors import OptionsError
from bert_extract.parsing import define_bool, define_integer

_VERBOSITY_HELP = (
    "How much is said on standard error: -1 is errors, and what puts every vector in "
    "doubt, such as a vocab that is not the checkpoint's; 0 the device, warnings, "
    "progress and a summary; 1 also how the model is read, each output of many, and "
    "the first five examples. --v is the same."
)
# absl's names for levels, and the numbers that those of its C++ twin have.
_THRESHOLDS = {
    **{name: name for name in ("debug", "info", "warning", "error", "fatal")},
    "warn": "warning",
    "0": "info",
    "1": "warning",
    "2": "error",
    "3": "fatal",
}

# What the command says itself, for the log file alone: standard error has it already.
_said = python_logging.getLogger("bert_extract.said")
_said.propagate = False
_said.addHandler(python_logging.NullHandler())


def define_flags(values: flags.FlagValues) -> None:
    """Defines absl's flags for logging, which the original had without naming them."""
    define_integer(values, "verbosity", 0, _VERBOSITY_HELP, short_name="v")
    flags.DEFINE_string(
        "log_dir",
        "",
        "A folder for a log file, which gets what is logged, with the time, instead of "
        "standard error: that keeps the progress bar and the last error.",
        flag_values=values,
    )
    define_bool(
        values,
        "alsologtostderr",
        False,
        "With --log_dir, whether standard error gets what is logged as well.",
    )
    define_bool(
        values,
        "logtostderr",
        False,
        "Whether standard error alone gets what is logged, as without --log_dir.",
    )
    flags.DEFINE_enum(
        "stderrthreshold",
        "fatal",
        list(_THRESHOLDS),
        "With --log_dir, what is logged on standard error as well: debug, info, "
        "warning, error or fatal, and what is more severe.",
        case_sensitive=False,
        flag_values=values,
    )
    define_bool(
        values,
        "showprefixforinfo",
        True,
        "Whether lines that are not warnings begin with the program's name.",
    )


@contextlib.contextmanager
def logging_as_asked(values: flags.FlagValues) -> Iterator[None]:
    """Sends what is logged where the flags say.

    Raises:
      OptionsError: there can be no log file.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # absl's logging would say that its flags were not parsed; ours were.
    flags.FLAGS.mark_as_parsed()
    verbosity: int = values.verbosity
    logging.set_verbosity(max(verbosity, logging.WARNING))
    logging.set_stderrthreshold("debug")
    logging.use_absl_handler()
    handler = logging.get_absl_handler()
    handler.python_handler.stream = sys.stderr  # it was another when absl was imported
    handler.setFormatter(_Formatter(values.showprefixforinfo))
    handler.setLevel(python_logging.NOTSET)
    handler.python_handler.filters = [doubt.is_told_always] if verbosity < 0 else []
    if not values.log_dir or values.logtostderr:
        yield
        return
    own_filters = [*handler.python_handler.filters]
    if not values.alsologtostderr:
        threshold = _THRESHOLDS[values.stderrthreshold]
        level = converter.string_to_standard(threshold)
        # No level, since what is in doubt has to reach whoever reads standard error.
        handler.python_handler.filters.append(
            lambda record: record.levelno >= level or doubt.is_marked(record)
        )
    with _log_file(values.log_dir) as log_file:
        log_file.filters = own_filters
        python_logging.root.addHandler(log_file)
        _said.addHandler(log_file)
        try:
            yield
        finally:
            python_logging.root.removeHandler(log_file)
            _said.removeHandler(log_file)
            handler.python_handler.filters = own_filters


def keep(message: str) -> None:
    """Puts what the command prints itself into the log file, too, if there is one."""
    _said.error("%s", message)


@contextlib.contextmanager
def _log_file(log_dir: str) -> Iterator[python_logging.Handler]:
    """Opens a log file of a name such as absl gives it."""
    moment = time.strftime("%Y%m%d-%H%M%S")
    try:
        folder, prefix, _ = logging.find_log_dir_and_names("bert-extract", log_dir)
        name = os.path.join(folder, f"{prefix}.INFO.{moment}.{os.getpid()}")
        log_file = python_logging.FileHandler(name, encoding="utf-8")
    except OSError as error:
        raise OptionsError(
            f"--log_dir: {log_dir}: expected a folder that is there and can be "
            "written to"
        ) from error
    log_file.setFormatter(logging.PythonFormatter())
    with contextlib.closing(log_file):
        yield log_file


class _Formatter(logging.PythonFormatter):
    """One line a message, without the place in the source."""

    def __init__(self, has_prefix: bool) -> None:
        super().__init__()
        self._has_prefix = has_prefix

    def format(self, record: Any) -> str:
        """Formats "bert-extract: [WARNING: ]message"."""
        if record.levelname in ("INFO", "DEBUG"):
            prefix = "bert-extract: " if self._has_prefix else ""
        else:
            prefix = f"bert-extract: {record.levelname}: "
        return f"{prefix}{record.getMessage()}"
