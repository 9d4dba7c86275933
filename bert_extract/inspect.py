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
from bert_extract.inspecting.contexts import word_contexts, word_vectors
from bert_extract.inspecting.lookup import read_line
from bert_extract.inspecting.nearest import nearest_words
from bert_extract.inspecting.plots import plot_contexts, plot_words
from bert_extract.inspecting.summary import inspect_features
from bert_extract.inspecting.words import as_readable
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
_TEXT_FLAGS = {
    "nearest": "A word of the file, such as bank: shows the words whose vectors are "
    "closest to its own, by cosine, each where it is closest. The word is taken where "
    "it stands first, or in the line that --line gives. The whole file is read.",
    "contexts": "A word that stands in several places: shows how alike its vectors "
    "there are to the first one, by cosine, layer by layer; --plot draws it.",
    "plot": "A picture to write, .png, .svg or .pdf: words as points, by the two "
    "directions in which their vectors differ most (PCA), or what --contexts shows. "
    "It needs the extra plot.",
    "words": "With --plot: the words to draw, such as bank,river,money. By default "
    "all, from the beginning of the file.",
    "layers": "The layers to show with --line or --contexts, as the file calls them, "
    "such as -1,-2; the one layer to compare with --nearest, or to draw. By default "
    "the first of the file, and all of them with --contexts.",
}
# What is asked for, the first of these that is there, and the flags that go with it.
_QUESTIONS = {
    "nearest": ("line", "layers", "num"),
    "contexts": ("plot", "layers", "num"),
    "plot": ("words", "layers", "num"),
    "line": ("layers",),
    "exact": (),
}


def make_flags() -> flags.FlagValues:
    """Defines the flags of the command."""
    values = CommandFlags()
    define_integer(
        values,
        "line",
        None,
        "The number of a line, from 0: shows its record, token by token.",
    )
    for name, help_text in _TEXT_FLAGS.items():
        flags.DEFINE_string(name, "", help_text, flag_values=values)
    define_integer(
        values,
        "num",
        None,
        "How many are shown: words with --nearest (10 by default), places with "
        "--contexts (8), points with --plot (60).",
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
        return _answer_all(values, paths)
    except OptionsError as error:
        _say(f"{error} (--help lists the flags)")
        return EXIT_USAGE
    except BrokenPipeError:
        return EXIT_CLOSED_PIPE


def _answer_all(values: flags.FlagValues, paths: Sequence[str]) -> int:
    """Prints what is asked for of each file; one that fails does not stop the others.

    Raises:
      OptionsError: the flags are wrong.
    """
    question = _question(values, paths)
    exit_code = EXIT_DONE
    for path in paths:
        try:
            print(_answer(values, question, path))
        except OptionsError:
            raise
        except BertExtractError as error:
            _say(str(error))
            exit_code = EXIT_FAILED
    return exit_code


def _question(values: flags.FlagValues, paths: Sequence[str]) -> str:
    """Tells what is asked for; "exact" is the summary, whether exact or not.

    Raises:
      OptionsError: no file is named, or a flag does not go with the question.
    """
    if not paths:
        raise OptionsError("expected the name of a file, as in bert-inspect FILE")
    asked = [name for name in _QUESTIONS if values[name].present]
    question = asked[0] if asked else "exact"
    for name in (*_TEXT_FLAGS, "line", "num", "exact"):
        if values[name].present and name not in (question, *_QUESTIONS[question]):
            friends = [q for q, others in _QUESTIONS.items() if name in others]
            goes_with = " or ".join(f"--{friend}" for friend in friends)
            raise OptionsError(
                f"--{name} does not go with --{question}"
                if asked
                else f"--{name} goes with {goes_with}"
            )
    if question == "plot" and len(paths) > 1:
        raise OptionsError(f"--plot draws one file; found {len(paths)}")
    return question


def _answer(values: flags.FlagValues, question: str, path: str) -> str:
    """Gives what is printed for a file."""
    given: dict[str, Any] = {name: values[name].value for name in values}
    layers = given["layers"] or None
    num = {} if given["num"] is None else {"num": given["num"]}
    if question == "nearest":
        layer = _one_layer(layers)
        found = nearest_words(
            path, given["nearest"], layer=layer, line=given["line"], **num
        )
        return str(found)
    if question == "contexts":
        contexts = word_contexts(path, given["contexts"], layers=layers, **num)
        if given["plot"]:
            plot_contexts(contexts, given["plot"])
        return str(contexts)
    if question == "plot":
        words = [word.strip() for word in given["words"].split(",") if word.strip()]
        vectors = word_vectors(path, words, layer=_one_layer(layers), **num)
        plot_words(vectors, given["plot"])
        return f"{given['plot']}: {len(vectors.places)} words, layer {vectors.layer}"
    if question == "line":
        record = read_line(path, given["line"], layers=layers)
        return "\n".join(record_rows(record, layers is not None))
    return str(inspect_features(path, exact=given["exact"]))


def _one_layer(text: str | None) -> int | str | None:
    layers = make_selection(text, None).layers
    if layers is None:
        return None
    if len(layers) != 1:
        raise OptionsError(f"--layers={text}: expected one layer to compare or draw")
    return layers[0]


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
    cells = [str(place), as_readable(token)]
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
    if sys.stdout is not None:  # as it is after >&-
        # Tokens are of all scripts, and a terminal may be of one.
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    process.run_and_exit(main)


if __name__ == "__main__":
    run()
