"""CoNLL-U -> sentences -> a vector for each word and layer, kept on the disk.

A part of train_tagger.py. What CoNLL-U calls a word is what gets a vector and a tag: of
a multiword token (`1-2 don't`) the words that it consists of (`1 do`, `2 n't`), of what
was left out (`1.1`, an empty node) nothing. The words of a sentence are joined by
spaces, and --unit=word gives a vector for each of them, whatever the tokenizer makes of
it.
"""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from bert_extract import InputError, Options
from bert_extract.checkpoints.model_dir import resolve_options
from bert_extract.tokenization.alignment import word_spans

COLUMNS = {"upos": 3, "xpos": 4}
_NUM_COLUMNS = 10
_FORM = 1
# A multiword token or an empty node, which are no words.
_NO_WORD = re.compile(r"[0-9]+(-[0-9]+|\.[0-9]+)")


@dataclass(frozen=True)
class Sentence:
    """The words of a sentence, and a tag for each."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    place: str  # where it begins, for people: "dev.conllu, line 5"


@dataclass(frozen=True)
class WordVectors:
    """The vectors of all words of a file, sentence by sentence."""

    vectors: NDArray[np.float16]  # [num_words, num_layers, hidden_size], mapped
    starts: NDArray[np.int64]  # [num_sentences + 1], of the sentences' words
    key: str  # what they were made of

    def of(self, sentence: int) -> NDArray[np.float16]:
        """Those of one sentence: float16 [num_words, num_layers, hidden_size]."""
        return self.vectors[self.starts[sentence] : self.starts[sentence + 1]]


# -------------------------------------------------------------------------- CoNLL-U


def read_conllu(conllu_file: Path, column: str) -> list[Sentence]:
    """Reads the words and their tags.

    Args:
      conllu_file: UTF-8, ten columns, sentences separated by blank lines.
      column: "upos" or "xpos", where the tags stand.

    Raises:
      InputError: it is no such file, or a word has no tag.
    """
    try:
        with conllu_file.open(encoding="utf-8-sig", newline="\n") as reader:
            sentences = list(_sentences(reader, conllu_file.name, column))
    except OSError as error:
        raise InputError(f"{conllu_file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{conllu_file}: is not UTF-8: {error}") from error
    if not sentences:
        raise InputError(f"{conllu_file}: holds no sentence; is it CoNLL-U?")
    return sentences


def _sentences(lines: Iterator[str], name: str, column: str) -> Iterator[Sentence]:
    words: list[str] = []
    tags: list[str] = []
    place = ""
    for number, line in enumerate(lines, 1):
        line = line.rstrip("\r\n")
        if not line.strip():
            if words:
                yield Sentence(tuple(words), tuple(tags), place)
            words, tags = [], []
        elif not line.startswith("#"):
            fields = _fields(line, f"{name}, line {number}")
            if _NO_WORD.fullmatch(fields[0]):
                continue
            place = place if words else f"{name}, line {number}"
            tag = fields[COLUMNS[column]]
            _check_word(fields[0], len(words) + 1, tag, column, name, number)
            words.append(fields[_FORM])
            tags.append(tag)
    if words:  # the last blank line is missing
        yield Sentence(tuple(words), tuple(tags), place)


def _fields(line: str, place: str) -> list[str]:
    fields = line.split("\t")
    if len(fields) != _NUM_COLUMNS:
        raise InputError(
            f"{place}: expected the {_NUM_COLUMNS} columns of CoNLL-U, tabs between "
            f"them, found {len(fields)}: {line[:60]!r}"
        )
    return fields


def _check_word(
    word_id: str, expected: int, tag: str, column: str, name: str, number: int
) -> None:
    if word_id != str(expected):
        raise InputError(
            f"{name}, line {number}: expected the word with the ID {expected}, found "
            f"{word_id!r}; is the blank line between two sentences missing?"
        )
    if tag == "_":
        raise InputError(
            f"{name}, line {number}: the word has no tag in the column {column}; the "
            f"others are {', '.join(c for c in COLUMNS if c != column)}"
        )


# -------------------------------------------------------------------------- vectors


def word_vectors(
    sentences: Sequence[Sentence], options: Options, cache_dir: Path
) -> WordVectors:
    """Takes the vectors of all words from the cache, or extracts them.

    Args:
      sentences: of which words.
      options: the model and its layers; `unit` is "word".
      cache_dir: where a file is looked for, and made if it is not there. Its name is
        a checksum of all that the vectors depend on.

    Raises:
      InputError: a sentence has another number of words for the model.
    """
    starts = np.cumsum([0, *(len(sentence.words) for sentence in sentences)])
    key = _key(sentences, options)
    vectors_file = cache_dir / f"{key}.npy"
    if not vectors_file.exists():
        cache_dir.mkdir(parents=True, exist_ok=True)
        partial = vectors_file.with_suffix(".partial")
        _extract(sentences, options, partial, starts)
        os.replace(partial, vectors_file)
    return WordVectors(np.load(vectors_file, mmap_mode="r"), starts, key)


def _key(sentences: Sequence[Sentence], options: Options) -> str:
    """A checksum of the words, the options and the model's files."""
    resolved, checkpoint = resolve_options(options)
    parts: list[Any] = [dataclasses.asdict(options), checkpoint.checksum()]
    for name in (resolved.vocab_file, resolved.bert_config_file):
        parts.append(hashlib.sha256(Path(name).read_bytes()).hexdigest())
    parts += [sentence.words for sentence in sentences]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _extract(
    sentences: Sequence[Sentence],
    options: Options,
    vectors_file: Path,
    starts: NDArray[np.int64],
) -> None:
    from bert_extract import FeatureExtractor  # TensorFlow: only if it is needed

    lines = [" ".join(sentence.words) for sentence in sentences]
    found: np.memmap[Any, Any] | None = None
    with FeatureExtractor(options) as extractor:
        records = extractor.extract(lines, progress=True)
        for number, (sentence, record) in enumerate(
            zip(sentences, records, strict=True)
        ):
            vectors = record.vectors  # float32 [layers, entries, hidden_size]
            if found is None:
                shape = (int(starts[-1]), vectors.shape[0], vectors.shape[2])
                found = open_memmap(vectors_file, "w+", np.float16, shape)
            entries = first_entries(sentence, record.tokens)
            own = vectors[:, entries].swapaxes(0, 1)
            found[starts[number] : starts[number + 1]] = own
    if found is not None:
        found.flush()


def first_entries(sentence: Sentence, tokens: Sequence[str]) -> list[int]:
    """Finds the entry of a record that is a word's.

    A word with a space in it (French "10 000") has several, and its first one counts.

    Args:
      sentence: what was extracted.
      tokens: of its record.

    Returns:
      The position of one entry for each word.

    Raises:
      InputError: the record's entries are not the sentence's words.
    """
    firsts: list[int] = []
    expected: list[str] = []
    for word in sentence.words:
        spans = word_spans(word).tolist()
        if not spans:
            raise InputError(
                f"{sentence.place}: the word {word!r} is only whitespace, and has no "
                "vector; take the sentence out, or give the word a form"
            )
        firsts.append(len(expected))
        expected += [word[start:end] for start, end in spans]
    if expected != list(tokens):
        pairs = zip(expected, tokens, strict=False)
        other = next(((a, b) for a, b in pairs if a != b), None)
        raise InputError(
            f"{sentence.place}: {len(expected)} words, but the model's input has "
            f"{len(tokens)}"
            + (f": {other[1]!r} instead of {other[0]!r}" if other else "")
            + "; take the characters out that a line of text cannot have there"
        )
    return firsts
