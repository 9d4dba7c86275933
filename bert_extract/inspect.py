"""The command that looks at files of records: `bert-inspect`.

All that it does are functions of `bert_extract.inspecting`; nothing of it needs
TensorFlow.
"""

import signal
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import numpy as np
from absl import flags

from bert_extract import process
from bert_extract.errors import BertExtractError, OptionsError
from bert_extract.inspecting.lookup import read_line
from bert_extract.inspecting.nearest import nearest_words
from bert_extract.inspecting.summary import inspect_features
from bert_extract.output.record import Record
from bert_extract.output.selection import make_selection
from bert_extract.parsing import CommandFlags, define_bool, define_integer, parse
from bert_extract.process import EXIT_CLOSED_PIPE, EXIT_DONE, EXIT_FAILED, EXIT_USAGE
from bert_extract.version import __version__

_USAGE = """\
Shows what is in a file that bert-extract or extract_features.py wrote.

bert-inspect FILE

It does not load TensorFlow, and of a large file it reads only pieces.
Exit codes: 0 done, 1 failed, 2 wrong flags.
"""
_NUM_VALUES = 3  # shown of a vector


def make_flags() -> flags.FlagValues:
    """Defines the flags of the command."""
    values = CommandFlags()
    define_integer(
        values,
        "line",
        None,
        "The number of a line, from 0: shows its record, token by token.",
    )
    flags.DEFINE_string(
        "nearest",
        "",
        "A word of the file, such as bank: shows the words whose vectors are closest "
        "to its own, by cosine, each where it is closest. The word is taken where it "
        "stands first, or in the line that --line gives. The whole file is read.",
        flag_values=values,
    )
    define_integer(values, "num_words", 10, "With --nearest: how many words are shown.")
    flags.DEFINE_string(
        "layers",
        "",
        "With --line: the layers to show, as the file calls them, such as -1,-2. With "
        "--nearest: the one layer to compare. By default the first of the file.",
        flag_values=values,
    )
    define_bool(
        values,
        "exact",
        False,
        "Whether every record is read: lines and tokens are counted, and what cannot "
        "be read is found. It takes as long as reading the file does.",
    )
    define_bool(values, "help", False, "Shows this text and ends.", short_name="h")
    define_bool(values, "version", False, "Shows the version of this tool.")
    return values


def help_text() -> str:
    """What `--help` shows: every flag with a sentence."""
    values = make_flags()
    paragraphs = [_USAGE]
    for name in values:
        flag = values[name]
        if flag.name == name:
            text = textwrap.fill(
                flag.help, 79, initial_indent="  ", subsequent_indent="  "
            )
            paragraphs.append(f"--{name}\n{text}")
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
        paths = parse(values, argv)
        if values["help"].value:
            print(help_text(), end="")
            return EXIT_DONE
        if values["version"].value:
            print(f"bert-inspect {__version__}")
            return EXIT_DONE
        _check(values, paths)
        for text in _answers(values, paths):
            print(text)
    except OptionsError as error:
        _say(f"{error} (--help lists the flags)")
        return EXIT_USAGE
    except BertExtractError as error:
        _say(str(error))
        return EXIT_FAILED
    except BrokenPipeError:
        return EXIT_CLOSED_PIPE
    return EXIT_DONE


def _check(values: flags.FlagValues, paths: Sequence[str]) -> None:
    """Raises an OptionsError if the flags do not go together."""
    if not paths:
        raise OptionsError("expected the name of a file, as in bert-inspect FILE")
    if values["exact"].value and (values["line"].present or values["nearest"].value):
        raise OptionsError("--exact is for the summary, which no other flag goes with")
    is_summary = values["line"].value is None and not values["nearest"].value
    if values["layers"].value and is_summary:
        raise OptionsError(
            "--layers is for --line and --nearest; the summary has all of them"
        )
    if values["num_words"].present and not values["nearest"].value:
        raise OptionsError("--num_words is for --nearest")


def _answers(values: flags.FlagValues, paths: Sequence[str]) -> Iterator[str]:
    for path in paths:
        line = values["line"].value
        if values["nearest"].value:
            yield str(
                nearest_words(
                    path,
                    values["nearest"].value,
                    layer=_one_layer(values["layers"].value),
                    line=line,
                    num_words=int(values["num_words"].value or 0),
                )
            )
        elif line is None:
            yield str(inspect_features(path, exact=bool(values["exact"].value)))
        else:
            record = read_line(path, line, layers=values["layers"].value or None)
            yield "\n".join(record_rows(record, bool(values["layers"].value)))


def _one_layer(text: Any) -> int | str | None:
    layers = make_selection(text, None).layers if text else None
    if layers is not None and len(layers) != 1:
        raise OptionsError(f"--layers={text}: --nearest compares one layer")
    return None if layers is None else layers[0]


def record_rows(record: Record, all_layers: bool = False) -> Iterator[str]:
    """Shows a record as a table: a row a token, or a row a token and layer.

    Args:
      record: any record.
      all_layers: whether all its layers are shown, or the first alone.
    """
    shape = f"{len(record.tokens):,} tokens"
    if record.layers:
        shape += f", layers {', '.join(map(str, record.indexes))}"
        shape += f" of {record.layers[0].shape[1]:,} values"
    yield f"line {record.linex_index:,}: {shape}"
    head = ["place", "token"]
    head += ["text"] * (record.texts is not None)
    head += ["offset"] * (record.offsets is not None)
    rows = [[*head, "layer", "first values", "length"]]
    num_layers = len(record.layers) if all_layers else min(1, len(record.layers))
    for place in range(len(record.tokens)):
        for number in range(num_layers):
            cells = _token_cells(record, place)
            vector = record.layers[number][place]
            rows.append(
                [
                    *(cells if number == 0 else [""] * len(cells)),
                    str(record.indexes[number]),
                    " ".join(f"{value:.3f}" for value in vector[:_NUM_VALUES]),
                    f"{float(np.linalg.norm(vector)):.2f}",
                ]
            )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  " + "  ".join(padded).rstrip()


def _token_cells(record: Record, place: int) -> list[str]:
    token = record.tokens[place]
    cells = [str(place), token if token.isprintable() else repr(token)[1:-1]]
    if record.texts is not None:
        cells.append(record.texts[place])
    if record.offsets is not None:
        span = record.offsets[place]
        cells.append("-" if span is None else f"{span[0]}-{span[1]}")
    return cells


def _say(message: str) -> None:
    print(f"bert-inspect: {message}", file=sys.stderr)


def run() -> NoReturn:
    """The console script."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    process.run_and_exit(main)


if __name__ == "__main__":
    run()
