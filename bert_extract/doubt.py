"""What puts every vector in doubt -> a warning that no verbosity hides.

A vocab that is not the checkpoint's lets a run end well and makes each id wrong. Who
asked for errors only, as cron's flagfile does, has to hear of it all the same.
"""

import logging as python_logging

from absl import logging

_MARK = "puts_result_in_doubt"


def warn(message: str, *args: object) -> None:
    """Logs a warning, with `args` put into the message."""
    logging.warning(message, *args, extra={_MARK: True})


def is_marked(record: python_logging.LogRecord) -> bool:
    """Whether a message came from `warn`."""
    return hasattr(record, _MARK)


def is_told_always(record: python_logging.LogRecord) -> bool:
    """Whether a message is for those, too, who want to hear of errors only."""
    return record.levelno >= python_logging.ERROR or is_marked(record)
