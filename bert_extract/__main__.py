"""The command: `bert-extract`, and `python -m bert_extract`."""

import signal
from typing import NoReturn


def main() -> NoReturn:
    """Runs the command."""
    # Until its own handlers are there, SIGINT ends it as it ends any program: Python's
    # would show where in the imports it was.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from bert_extract.cli import run

    run()


if __name__ == "__main__":
    main()
