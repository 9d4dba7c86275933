"""What Ray's workers do first in the cluster tests: they learn where to be struck.

The folder BLOWS has files like "group.kill": the first worker that passes the crash
point "group" takes the file and kills itself. With ".stop" it stops, as a process that
hangs; with ".full" its disk is full from then on.
"""

import errno
import os
import signal
import sys
from pathlib import Path

is_full = False


def crash_point(name: str) -> None:
    """Takes a blow that waits here, if there is one."""
    global is_full
    if is_full and name == "write":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for kind in ("kill", "stop", "full"):
        blow = Path(os.environ["BLOWS"], f"{name}.{kind}")
        try:
            blow.rename(f"{blow}.hit-{os.getpid()}")
        except FileNotFoundError:
            continue
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            is_full = True
            crash_point(name)


if any(word.endswith("default_worker.py") for word in sys.orig_argv):
    from bert_extract.output import append_file

    append_file.crash_point = crash_point
