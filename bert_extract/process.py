"""The command's process: its exit codes, the signals that end it, TensorFlow's chatter.

The first signal raises `Stopped`, wherever the run is; a second one ends it at once.
Standard streams that the caller closed are opened again, and C++ greets nobody there.
"""

import contextlib
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from types import FrameType
from typing import IO, NoReturn

from bert_extract.errors import BertExtractError

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
# What a shell reports of a command that SIGPIPE ended.
EXIT_CLOSED_PIPE = 141

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# What TensorFlow's C++ code says while it is imported, whether or not all is well.
_GREETING = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog\(\)|"
    rb"I\d{4} \d\d:\d\d:|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: I |"
    rb"To enable the following instructions: |"
    rb"[EW]\d{4} \d\d:\d\d:.* (Unable to register cu|computation placer already)|"
    rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: E .* Unable to register cu"
)


# --------------------------------------------------------------------- signals


class Stopped(BaseException):
    """A signal asked for the end. Not an Exception: nobody else may catch it.

    Attributes:
      number: the signal's.
      name: the signal's, "SIGTERM".
      exit_code: what a shell reports of a command that the signal ended.
    """

    # The one that was raised in this run, if any.
    last: "Stopped | None" = None

    def __init__(self, number: int) -> None:
        self.number = number
        self.name = signal.Signals(number).name
        self.exit_code = 128 + number
        super().__init__(f"stopped by {self.name}")


def stop_on_signals() -> None:
    """Lets SIGINT and SIGTERM raise `Stopped` from here on."""
    Stopped.last = None
    for number in _STOP_SIGNALS:
        # A shell without job control starts "command &" with SIGINT ignored, and
        # nobody may be stopped by what they ignore.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    """The first signal ends the run in order, a second one at once."""
    for other in _STOP_SIGNALS:
        if signal.getsignal(other) != signal.SIG_IGN:
            signal.signal(other, signal.SIG_DFL)
    Stopped.last = Stopped(number)
    raise Stopped.last


def check_not_stopped() -> None:
    """Raises `Stopped` again if some library's import caught it."""
    if Stopped.last is not None:
        raise Stopped.last


def die_of(stopped: Stopped) -> int:
    """Ends as the signal would have, so that shells and schedulers see which it was.

    Returns:
      The exit code for a process that the signal does not end.
    """
    sys.stderr.flush()
    os.kill(os.getpid(), stopped.number)
    return stopped.exit_code


# ------------------------------------------------------------------ TensorFlow


@contextlib.contextmanager
def silent_imports() -> Iterator[None]:
    """Keeps standard error and the disk free of what imports leave there."""
    with _silence(), _no_search_for_a_temporary_folder(), _no_matplotlib():
        yield


def import_tensorflow() -> None:
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
            "of address space (ulimit -v, or a job's limit); if there is enough, "
            "install bert-extract again, with the versions that it asks for"
        ) from error


def import_quietly() -> None:
    """Imports it in a process that is not ours, and keeps its greeting to itself.

    What others say meanwhile, in other threads, is shown afterwards.

    Raises:
      BertExtractError: it cannot be loaded.
    """
    if "tensorflow" in sys.modules and "tensorflow_text" in sys.modules:
        return
    # It would tell of each GPU that it finds, or not, later; what fails is raised.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        os.fstat(2)
    except OSError:  # nobody listens
        import_tensorflow()
        return
    with _silence(_without_greeting):
        import_tensorflow()


def _without_greeting(chatter: bytes) -> bytes:
    lines = chatter.splitlines(keepends=True)
    return b"".join(line for line in lines if not _GREETING.match(line))


def _nothing(chatter: bytes) -> bytes:
    return b""


@contextlib.contextmanager
def _silence(shown: Callable[[bytes], bytes] = _nothing) -> Iterator[None]:
    """Keeps the C++ code of a library that is being imported from standard error.

    TensorFlow's greets with four lines there whatever TF_CPP_MIN_LOG_LEVEL says. They
    are shown after all if the import fails.

    Args:
      shown: what is shown of it in the end.
    """
    _flush_stderr()
    own_stderr = os.dup(2)
    with _unnamed_file() as chatter:
        os.dup2(chatter.fileno(), 2)
        try:
            yield
            _flush_stderr()
            chatter.seek(0)
            os.write(own_stderr, shown(chatter.read()))
        except Stopped:
            raise  # nobody asks what it would have said
        except BaseException:
            chatter.seek(0)
            os.write(own_stderr, chatter.read())
            raise
        finally:
            os.dup2(own_stderr, 2)
            os.close(own_stderr)


def _flush_stderr() -> None:
    if sys.stderr is not None:
        sys.stderr.flush()


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


@contextlib.contextmanager
def _no_matplotlib() -> Iterator[None]:
    """Hides matplotlib from Keras, which imports it wherever it is installed.

    That takes a second, and leaves folders of settings and fonts in the user's home.
    The command computes and draws nothing; what others import later is not touched.
    """
    if "matplotlib" in sys.modules:
        yield
        return
    sys.modules["matplotlib"] = None  # type: ignore[assignment]  # Python's way to say no
    try:
        yield
    finally:
        sys.modules.pop("matplotlib", None)


def _unnamed_file() -> IO[bytes]:
    if hasattr(os, "memfd_create"):  # needs no folder that can be written to
        return open(os.memfd_create("stderr"), "w+b")
    return tempfile.TemporaryFile()


# ----------------------------------------------------------- beginning and end


def run_and_exit(main: Callable[[], int]) -> NoReturn:
    """Runs a command to the end of the process.

    Args:
      main: returns the exit code.
    """
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
