"""Every mistake that a person can mend, by where it was made.

BertExtractError
 +-- OptionsError      a flag or an option is wrong (the command exits with 2)
 |    +-- ArgumentTypeError   an argument in Python is of the wrong type
 +-- InputError        a text file cannot be read as lines of UTF-8
 |    +-- InputReadError     the system could not read it; later it may
 +-- VocabError        the vocab file is not a BERT vocab
 +-- ConfigError       bert_config.json is missing something or says nonsense
 +-- CheckpointError   weights are missing, misshapen or unreadable
 +-- NotFiniteError    a vector holds NaN or infinity
 +-- OutputError       the output cannot be written
"""

import json

# Characters of a value that fit into a message.
_MOST_SHOWN = 60


class BertExtractError(Exception):
    """Says what happened, where, what was expected, what was found, and the way out.

    The command prints the message without a traceback and exits with 1. Anything
    that is not a `BertExtractError` is a bug and shows its traceback.
    """


class OptionsError(BertExtractError):
    """An option has a value that cannot work, whatever the files hold."""


class ArgumentTypeError(OptionsError, TypeError):
    """An argument of the Python API is of a type that cannot work."""


class InputError(BertExtractError):
    """A text file is missing, unreadable, or not UTF-8."""


class InputReadError(InputError):
    """The system could not read a text file; nothing is known to be wrong with it."""


class VocabError(BertExtractError):
    """A vocab file is missing, unreadable, or lacks a special token."""


class ConfigError(BertExtractError):
    """A bert_config.json is missing, unreadable, or lacks a key."""


class CheckpointError(BertExtractError):
    """A checkpoint is missing, broken, or is not the one that the config describes."""


class NotFiniteError(BertExtractError):
    """The model computed NaN or infinity for a line."""


class OutputError(BertExtractError):
    """The output cannot be created, written, or put in its place."""


def counted(number: int, noun: str) -> str:
    """A number of things as messages show it: "1 line", "2,000 lines"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def as_shown(value: object) -> str:
    """A value as messages show it: as JSON, cut where it would fill the screen."""
    text = json.dumps(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
