"""The command in a process that can die at a chosen point; see test_crash.py.

The environment variable CRASH is a JSON object: {"name": "write", "number": 3} kills
the process at the third crash point of that name. With "hangs": true it says so on
standard error, and waits there for somebody to end it.
"""

import json
import os
import signal
import sys
import time

from bert_extract import cli
from bert_extract.inputs import batching
from bert_extract.output import append_file

wanted = json.loads(os.environ.get("CRASH", "{}"))
num_passed = 0


def crash_point(name: str) -> None:
    """Kills this very process where it was asked to die."""
    global num_passed
    if name == wanted.get("name"):
        num_passed += 1
        if num_passed == wanted["number"]:
            if wanted.get("hangs"):
                print(f"hangs at {name}", file=sys.stderr, flush=True)
                time.sleep(1000)
            os.kill(os.getpid(), signal.SIGKILL)


append_file.crash_point = crash_point
# Small enough that a test's few seconds see many stretches and many writes.
batching._MAX_STRETCH_LINES = 512
append_file.BUFFER_SIZE = 1 << 18
if __name__ == "__main__":
    sys.argv[0] = "bert-extract"
    cli.run()
