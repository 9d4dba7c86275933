"""Words, sentences and long texts are what one computes by hand from wordpieces."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bert_extract import CheckpointError, FeatureExtractor, Record
from bert_extract.checkpoints.loading import load_weights
from bert_extract.checkpoints.opened import open_checkpoint
from bert_extract.engine import Engine
from bert_extract.loaded_model import OpenedModel
from bert_extract.model.config import BertConfig
from bert_extract.output.json_lines import JsonFormatter
from bert_extract.output.record import RecordPart
from bert_extract.progress import Summary
from bert_extract.text.examples import parse_line
from bert_extract.tokenization.tokenizer import Tokenizer
from bert_extract.tokenization.vocab import Vocab
from support.make_checkpoints import read_tf1_checkpoint, write_tf1_checkpoint
from support.nasty_text import nasty_lines
from support.running import options_for, write_random_model

# What the original's tokenizer sees as whitespace.
SPACES = " \t\n\r\u00a0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)
Matrix = NDArray[np.float32]


@pytest.fixture(scope="module")
def lines(golden_dir: Path) -> list[str]:
    golden = (golden_dir / "input.txt").read_bytes().decode().split("\n")[:-1]
    nasty = [*nasty_lines(seed=11, num_lines=120)]
    pairs = [f"{a} ||| {b}" for a, b in zip(nasty[:40], nasty[40:80], strict=True)]
    long = [" ".join(nasty[i : i + 9]) for i in range(0, 80, 20)]
    words = [
        "unaffable " * 40,
        "a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r.s.t.u.v.w.x.y.z." * 3 + " x",
        "river\x01 \x02 \u200b bank " * 25,
        "the river bank ||| " + "deposits puppeteer " * 30,
        "deposits puppeteer " * 30 + "||| the river bank",
        "the \x01 ||| \x02 \u200b",
        "  \u00a0 the\rri\rver \r ||| \r bank\u3000of\u2028it \r\r",
    ]
    return golden + nasty + pairs + long + words


class Runs:
    """The same lines, run once with each set of options."""

    def __init__(self, tiny_bert: Path, lines: list[str]) -> None:
        self._tiny_bert = tiny_bert
        self._lines = lines
        self._records = functools.cache(self._run)

    def __call__(self, **settings: Any) -> list[Record]:
        return self._records(tuple(sorted({"layers": "-1,0", **settings}.items())))

    def _run(self, settings: tuple[tuple[str, Any], ...]) -> list[Record]:
        options = options_for(self._tiny_bert, **dict(settings))
        return list(FeatureExtractor(options).extract(self._lines))


@pytest.fixture(scope="module")
def runs(tiny_bert: Path, lines: list[str]) -> Runs:
    return Runs(tiny_bert, lines)


WINDOWS: tuple[dict[str, Any], ...] = (
    {},
    {"long_text": "window"},
    {"long_text": "window", "max_seq_length": 9, "doc_stride": 2},
    {"long_text": "window", "max_seq_length": 5, "doc_stride": 3},
    {"max_seq_length": 3},
)
each_window = pytest.mark.parametrize("window", WINDOWS, ids=str)


def word_spans(line: str) -> list[tuple[int, int, str]]:
    """Start, end and text of each word, found character by character."""
    inside = line.strip()
    first, last = line.find(inside[:1]), line.find(inside[:1]) + len(inside)
    # The last " ||| " counts, with the CRs that stand anywhere in it.
    separator = behind = -1
    bare = [place for place in range(first, last) if line[place] != "\r"]
    text = "".join(line[place] for place in bare)
    if " ||| " in text:
        separator = bare[text.rindex(" ||| ")]
        behind = [place for place in bare if place > separator][4]
    spans: list[tuple[int, int, str]] = []
    start = None
    for place in [*bare, last]:
        is_between = separator >= 0 and separator <= place < behind
        is_space = place == last or line[place] in SPACES or is_between
        if is_space and start is not None:
            end = max(p for p in bare if p < place) + 1
            name = "a" if separator < 0 or end <= separator else "b"
            spans.append((start, end, name))
            start = None
        elif not is_space and start is None:
            start = place
    return spans


def mean(rows: Matrix) -> Matrix:
    total: Matrix = rows[0].copy()
    for row in rows[1:]:
        total += row
    total /= np.float32(len(rows))
    return total


POOL: dict[str, Callable[[Matrix], Matrix]] = {
    "first": lambda rows: rows[0],
    "last": lambda rows: rows[-1],
    "mean": mean,
    "max": lambda rows: rows.max(axis=0),
}


def rows_of(record: Record, start: int, end: int) -> list[int]:
    """The wordpieces that begin in these characters of the line."""
    assert record.offsets is not None
    return [
        row
        for row, span in enumerate(record.offsets)
        if span is not None and start <= span[0] < end
    ]


@pytest.mark.parametrize("pooling", ["first", "mean", "last"])
@each_window
def test_words_are_pooled_wordpieces(
    runs: Runs, lines: list[str], window: dict[str, Any], pooling: str
) -> None:
    wordpieces = runs(offsets=True, **window)
    words = runs(unit="word", word_pooling=pooling, offsets=True, **window)
    for line, pieces, record in zip(lines, wordpieces, words, strict=True):
        spans = word_spans(line)
        assert record.offsets == tuple((start, end) for start, end, _ in spans)
        assert record.tokens == tuple(
            line[start:end].replace("\r", "") for start, end, _ in spans
        )
        is_pair = " ||| " in line.replace("\r", "").strip()
        names = tuple(name for _, _, name in spans)
        assert record.texts == (names if is_pair else None)
        rows_by_word = [rows_of(pieces, start, end) for start, end, _ in spans]
        for layer, found in zip(pieces.layers, record.layers, strict=True):
            assert found.shape == (len(spans), 32)
            for rows, vector in zip(rows_by_word, found, strict=True):
                expected = POOL[pooling](layer[rows]) if rows else np.zeros(32)
                assert vector.tolist() == expected.tolist()


def real_rows(record: Record) -> list[int]:
    assert record.offsets is not None
    return [row for row, span in enumerate(record.offsets) if span is not None]


@pytest.mark.parametrize("pooling", ["mean", "max"])
@each_window
def test_sentences_are_pooled_wordpieces(
    runs: Runs, window: dict[str, Any], pooling: str
) -> None:
    wordpieces = runs(offsets=True, **window)
    settings = {"unit": "sentence", "sentence_pooling": pooling, "offsets": True}
    for pieces, record in zip(wordpieces, runs(**settings, **window), strict=True):
        rows = real_rows(pieces)
        assert record.tokens == (f"[{pooling.upper()}]",)
        assert pieces.offsets is not None
        first, last = (pieces.offsets[r] for r in (rows[:1] + rows[-1:]) or (0, 0))
        expected_span = (first[0], last[1]) if first and last else None
        assert record.offsets == (expected_span,)
        for layer, found in zip(pieces.layers, record.layers, strict=True):
            expected = POOL[pooling](layer[rows]) if rows else np.zeros(32)
            assert found.tolist() == [expected.tolist()]


@each_window
def test_cls_is_the_vector_of_cls(runs: Runs, window: dict[str, Any]) -> None:
    sentences = runs(unit="sentence", sentence_pooling="cls", **window)
    for pieces, record in zip(runs(offsets=True, **window), sentences, strict=True):
        assert record.tokens == ("[CLS]",)
        for layer, found in zip(pieces.layers, record.layers, strict=True):
            assert found.tolist() == [layer[0].tolist()]


@pytest.mark.parametrize(
    ("unit", "pooling"),
    [
        *(("wordpiece", "mean"), ("wordpiece", "sum"), ("wordpiece", "concat")),
        *(("word", "concat"), ("sentence", "mean")),
    ],
)
def test_layers_are_mixed_before_wordpieces(
    runs: Runs, unit: str, pooling: str
) -> None:
    each = runs(layers="-1,0,-3", offsets=True, **WINDOWS[1])
    settings = {"layers": "-1,0,-3", "layer_pooling": pooling, "unit": unit}
    for pieces, record in zip(each, runs(**settings, **WINDOWS[1]), strict=True):
        a, b, c = pieces.layers
        mixed = {
            "sum": a + b + c,
            "mean": (a + b + c) / np.float32(3),
            "concat": np.concatenate([a, b, c], axis=1),
        }[pooling]
        assert record.indexes == (pooling,)
        (found,) = record.layers
        assert found.shape[1] == (96 if pooling == "concat" else 32)
        rows = real_rows(pieces)
        if unit == "wordpiece":
            assert found.tolist() == mixed.tolist()
        elif len(rows) and len(found) == 1:  # a sentence, or a line of one word
            assert found.tolist() == [mean(mixed[rows]).tolist()]


def test_offsets_do_not_change_a_vector(runs: Runs) -> None:
    for window in WINDOWS[:2]:
        with_offsets, without = runs(offsets=True, **window), runs(**window)
        for pieces, plain in zip(with_offsets, without, strict=True):
            assert plain.offsets is None
            assert pieces.offsets is not None
            assert len(pieces.offsets) == len(pieces.tokens)
            assert pieces.tokens == plain.tokens
            assert as_json(pieces, offsets=None) == as_json(plain)


def as_json(record: Record, **changes: Any) -> bytes:
    fields = {name: getattr(record, name) for name in record.__dataclass_fields__}
    part = RecordPart(Record(**{**fields, **changes}))
    return bytes(JsonFormatter(record.indexes).format(part))


# ----------------------------------------------------------------------- long texts


def test_a_text_that_fits_is_what_a_truncated_one_is(runs: Runs) -> None:
    num_long = 0
    for slid, cut in zip(runs(long_text="window"), runs(), strict=True):
        if len(slid.tokens) <= 32:
            assert as_json(slid) == as_json(cut)
        else:
            num_long += 1
            assert slid.tokens[:31] == cut.tokens[:31]
            assert slid.layers[0][0].tolist() == cut.layers[0][0].tolist()
    assert num_long >= 7


def test_no_wordpiece_is_missing_or_there_twice(
    runs: Runs, lines: list[str], tiny_bert: Path
) -> None:
    vocab = Vocab.load(str(tiny_bert / "vocab.txt"))
    tokenizer = Tokenizer(vocab, do_lower_case=True)
    for window in WINDOWS[1:4]:
        for line, record in zip(lines, runs(**window), strict=True):
            example = parse_line(line, 0)
            if example.text_b is None:
                (ids,) = tokenizer.tokenize([str(example.text_a)])
                tokens = [vocab.tokens[i] for i in ids]
                assert record.tokens == ("[CLS]", *tokens, "[SEP]")


def windows_by_hand(
    num_words: int, room: int, stride: int
) -> Iterator[tuple[int, int]]:
    """The window of each word: the original's rule, word by word."""
    starts = [0]
    while starts[-1] + room < num_words:
        starts.append(starts[-1] + stride)
    spans = [(start, min(start + room, num_words)) for start in starts]
    for place in range(num_words):

        def score(span: tuple[int, int], place: int = place) -> float:
            start, end = span
            return min(place - start, end - 1 - place) + 0.01 * (end - start)

        yield max([s for s in spans if s[0] <= place < s[1]], key=score)


@pytest.mark.parametrize(
    ("num_words", "stride"), [(31, 0), (77, 0), (100, 7), (61, 30)]
)
def test_each_vector_is_that_of_a_window_run_by_hand(
    tiny_bert: Path, num_words: int, stride: int
) -> None:
    vocabulary = ["the", "river", "bank", "was", "?", "who", "jim"]
    words = [vocabulary[(i * i + i // 5) % 7] for i in range(num_words)]
    options = options_for(tiny_bert, layers="-1", long_text="window", doc_stride=stride)
    extractor = FeatureExtractor(options)
    (record,) = extractor.extract([" ".join(words)])
    assert record.tokens == ("[CLS]", *words, "[SEP]")
    spans = [*windows_by_hand(num_words, 30, stride or 15)]
    distinct = [*dict.fromkeys(spans)]
    by_hand = extractor.extract([" ".join(words[a:b]) for a, b in distinct])
    layer_of = {
        span: of_window.layers[0]
        for span, of_window in zip(distinct, by_hand, strict=True)
    }
    found = record.layers[0]
    assert found[0].tolist() == layer_of[distinct[0]][0].tolist()
    assert found[-1].tolist() == layer_of[distinct[-1]][-1].tolist()
    for place, span in enumerate(spans):
        expected = layer_of[span][place - span[0] + 1]
        assert found[place + 1].tolist() == expected.tolist()


# ------------------------------------------------------------------------ the pooler


def test_the_pooler_is_a_dense_layer_on_cls(
    tiny_bert: Path, runs: Runs, lines: list[str]
) -> None:
    config = BertConfig.from_json_file(str(tiny_bert / "bert_config.json"))
    prefix = str(tiny_bert / "bert_model.ckpt")
    weights = load_weights(open_checkpoint(prefix), config, with_pooler=True).weights
    kernel = weights["bert/pooler/dense/kernel"].numpy()
    bias = weights["bert/pooler/dense/bias"].numpy()
    options = options_for(tiny_bert, unit="sentence", sentence_pooling="pooler")
    extractor = FeatureExtractor(options)
    pooled = list(extractor.extract(lines))
    for pieces, record in zip(runs(offsets=True), pooled, strict=True):
        assert record.tokens == ("[POOLER]",)
        assert record.indexes == ("pooler",)
        last = pieces.layers[0].astype(np.float64)
        expected = np.tanh(last[0] @ kernel + bias)
        np.testing.assert_allclose(record.layers[0], [expected], atol=1e-6)
    for place in (0, 3, 40):
        (alone,) = extractor.extract([lines[place]])
        assert alone.layers[0].tobytes() == pooled[place].layers[0].tobytes()


def test_a_checkpoint_without_a_pooler_will_do_for_all_else(tmp_path: Path) -> None:
    model_dir = write_random_model(tmp_path, num_hidden_layers=4)
    weights = read_tf1_checkpoint(model_dir / "bert_model.ckpt")
    without = {name: w for name, w in weights.items() if "pooler" not in name}
    write_tf1_checkpoint(model_dir / "bert_model.ckpt", without)
    options = options_for(model_dir, unit="sentence")
    (record,) = FeatureExtractor(options).extract(["w1 w2"])
    assert record.tokens == ("[MEAN]",)
    options = options_for(model_dir, unit="sentence", sentence_pooling="pooler")
    with pytest.raises(CheckpointError, match="no pooler") as caught:
        FeatureExtractor(options)
    assert "bert/pooler/dense/kernel" in str(caught.value)
    assert "take mean, cls or max" in str(caught.value)


# ------------------------------------------------------------------------ the counts


@pytest.mark.parametrize(
    ("settings", "counts"),
    [
        # Two words are no token's, and "wet" is cut between its wordpieces.
        ({"max_seq_length": 6}, {"words_without_vector": 5, "words_cut": 1}),
        ({"max_seq_length": 32}, {"words_without_vector": 2, "words_cut": 0}),
        (
            {"max_seq_length": 6, "long_text": "window"},
            {"words_without_vector": 2, "words_cut": 0},
        ),
    ],
)
def test_words_without_a_vector_are_counted(
    tiny_bert: Path, settings: dict[str, Any], counts: dict[str, int]
) -> None:
    tiny = Engine(OpenedModel(options_for(tiny_bert, unit="word", **settings)))
    summary = Summary()
    line = "the \x01 river \u200b unaffable bank was ?"
    list(tiny.run([parse_line(line, 0)], list, summary))
    assert {name: getattr(summary, f"num_{name}") for name in counts} == counts
    assert summary.num_lines == 1
    assert summary.num_windowed == ("long_text" in settings)
    assert summary.num_truncated == (counts["words_without_vector"] == 5)


def test_lines_in_windows_and_truncated_pairs_are_counted(tiny_bert: Path) -> None:
    tiny = Engine(OpenedModel(options_for(tiny_bert, long_text="window")))
    summary = Summary()
    texts = ["river " * 40, "the bank", "river " * 30 + "||| bank", "a ||| b"]
    list(tiny.run([parse_line(t, i) for i, t in enumerate(texts)], list, summary))
    assert (summary.num_lines, summary.num_windowed, summary.num_pairs) == (4, 1, 2)
    assert (summary.num_truncated, summary.num_truncated_pairs) == (1, 1)
    # Windows of 32, 27 tokens; 4; 32; 5.
    assert summary.num_tokens == 32 + 27 + 4 + 32 + 5
    assert summary.num_slots >= summary.num_tokens


def test_a_very_long_line_of_words_that_the_model_does_not_see(tiny_bert: Path) -> None:
    """Entries for all of them, in parts of bounded size, that cost no computing."""
    tiny = Engine(OpenedModel(options_for(tiny_bert, unit="word", layers="-1")))
    summary = Summary()
    texts = ["river bank " * 15_000, "river " * 5_000 + "||| bank", "the end"]
    examples = [parse_line(text, number) for number, text in enumerate(texts)]
    groups = tiny.run(examples, list, summary)
    parts = [part for group in groups for part in group.encoded]
    assert max(len(part.record.tokens) for part in parts) <= 1024
    assert sum(len(part.record.tokens) for part in parts) == 30_000 + 5_001 + 2
    assert sum(part.is_last for part in parts) == summary.num_lines == 3
    assert summary.num_words_without_vector == 30_000 - 30 + 5_000 - 28
    assert summary.num_tokens < 32 + 3 * 32
    records = [part.record for part in parts]
    last_word = [record for record in records if record.linex_index == 1][-1]
    assert last_word.tokens[-1] == "bank"
    assert last_word.texts is not None
    assert last_word.texts[-1] == "b"
    assert last_word.layers[0][-1].any()
