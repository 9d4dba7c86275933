"""scripts/train_tagger.py: words and tags, their vectors, the taggers, the table."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tqdm import tqdm

import train_tagger
from bert_extract import FeatureExtractor, InputError, Options
from support.running import write_random_model
from tagger_features import (
    Sentence,
    WordVectors,
    first_entries,
    read_conllu,
    word_vectors,
)
from tagger_report import PAPER, Run, draw_picture, to_report
from train_tagger import (
    BILSTM,
    LINEAR,
    ROWS,
    TaggedVectors,
    Tagger,
    Trainer,
    read_runs,
    write_runs,
)

# Sentences of the small model's words, by hand: a multiword token, an empty node, a
# comment between words, and more wordpieces than a window has room for.
FORMS = {"w1": "DET", "w2": "NOUN", "w3": "VERB", "w4": "ADP", "w5": "PUNCT"}
TEXTS = (
    "w1 w2 w3 w1 w2 w5",
    "w2 w3 w4 w2",
    "w3 w5",
    "w1 w2 w4 w1 w2 w3 w5",
    "w2 w3 w1 w2 w4 w2 w5",
    "w1 w2 w5 " * 8,
)


def word_line(word_id: str, form: str, tag: str) -> str:
    return "\t".join([word_id, form, "_", tag, f"X{tag}", *"_____"])


def conllu(text: str) -> str:
    lines = [f"# text = {text}"]
    for number, form in enumerate(text.split(), 1):
        lines.append(word_line(str(number), form, FORMS[form]))
    return "\n".join([*lines, "", ""])


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, and as many layers as the table's rows ask for."""
    return write_random_model(tmp_path_factory.mktemp("four"), num_hidden_layers=4)


def options_of(model_dir: Path, **fields: Any) -> Options:
    fields = {"unit": "word", "long_text": "window", "pairs": False, **fields}
    return Options(model_dir=str(model_dir), layers="embeddings,all", **fields)


# -------------------------------------------------------------------------- CoNLL-U


def test_words_are_what_has_a_tag(tmp_path: Path) -> None:
    lines = [
        "# sent_id = 1",
        word_line("1-2", "don't", "_"),
        word_line("1", "do", "AUX"),
        word_line("2", "n't", "PART"),
        word_line("2.1", "left", "VERB"),
        "# a comment",
        word_line("3", "10 000", "NUM"),
        "",
        "",
        word_line("1", "#", "SYM"),
    ]
    path = tmp_path / "a.conllu"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert read_conllu(path, "upos") == [
        Sentence(("do", "n't", "10 000"), ("AUX", "PART", "NUM"), "a.conllu, line 3"),
        Sentence(("#",), ("SYM",), "a.conllu, line 10"),
    ]
    assert read_conllu(path, "xpos")[1].tags == ("XSYM",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 the DET\n", "a.conllu, line 1: expected the 10 columns .* found 1: '1 the"),
        (
            word_line("2", "a", "X"),
            "line 1: expected the word with the ID 1, found '2'",
        ),
        (
            f"{conllu('w1')[:-1]}{conllu('w1')}",
            "line 4: expected the word with the ID 2",
        ),
        (
            f"# a\n{word_line('1', 'a', '_')}\n",
            "line 2: the word has no tag in .* upos",
        ),
        ("# only a comment\n\n", "a.conllu: holds no sentence"),
        ("\udcff", "a.conllu: is not UTF-8"),
    ],
)
def test_what_is_no_conllu_is_told_with_its_place(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "a.conllu"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=message):
        read_conllu(path, "upos")
    with pytest.raises(InputError, match=r"b\.conllu: cannot be read: No such file"):
        read_conllu(tmp_path / "b.conllu", "upos")


# -------------------------------------------------------------------------- vectors


def test_a_word_with_a_space_in_it_has_the_entry_of_its_first_part() -> None:
    sentence = Sentence(("a", "10\u00a0000", "b"), ("X", "NUM", "X"), "f, line 1")
    assert first_entries(sentence, ("a", "10", "000", "b")) == [0, 1, 3]


@pytest.mark.parametrize(
    ("words", "tokens", "message"),
    [
        (("a", "b"), ("a",), "f, line 1: 2 words, but the model's input has 1; take"),
        (("a", "b"), ("a", "c"), "f, line 1: 2 words, .* has 2: 'c' instead of 'b'; "),
        (("a", "\u2003"), ("a",), "f, line 1: the word .* is only whitespace"),
    ],
)
def test_words_that_are_not_the_models_end_it(
    words: tuple[str, ...], tokens: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        first_entries(Sentence(words, words, "f, line 1"), tokens)


def test_each_word_has_its_vector_whatever_the_tokenizer_makes_of_it(
    model_dir: Path, tmp_path: Path
) -> None:
    words = ("w1", "|||", "\u200b", "w2-w3", "10 000", *["w4"] * 40)
    sentences = [Sentence(words, words, "f"), Sentence(("w5",), ("X",), "f")]
    options = options_of(model_dir, max_seq_length=16, word_pooling="first")
    found = word_vectors(sentences, options, tmp_path)
    assert found.vectors.shape == (46, 5, 24)
    assert found.vectors.dtype == np.float16
    assert found.starts.tolist() == [0, 45, 46]
    with FeatureExtractor(options) as extractor:
        long, short = (
            record.vectors.swapaxes(0, 1).astype(np.float16)
            for record in extractor.extract([" ".join(words), "w5"])
        )
    kept = [place for place in range(46) if place != 5]  # not "000"
    np.testing.assert_array_equal(found.of(0), long[kept])
    np.testing.assert_array_equal(found.of(1), short)
    # The tokenizer drops U+200B, and the last words are in windows of their own.
    assert found.of(0).any(axis=(1, 2)).tolist() == [place != 2 for place in range(45)]


def test_a_sentence_that_a_line_cannot_hold_ends_it(
    model_dir: Path, tmp_path: Path
) -> None:
    sentence = Sentence(("w1", "\x85"), ("X", "X"), "f, line 7")
    with pytest.raises(InputError, match=r"f, line 7: 2 words, but .* has 1"):
        word_vectors([sentence], options_of(model_dir), tmp_path)
    assert not list(tmp_path.glob("*.npy"))


def test_vectors_are_extracted_once(model_dir: Path, tmp_path: Path) -> None:
    sentences = [Sentence(("w1", "w2"), ("X", "X"), "f")]
    options = options_of(model_dir)
    first = word_vectors(sentences, options, tmp_path)
    (vectors_file,) = tmp_path.iterdir()
    time = vectors_file.stat().st_mtime_ns
    assert word_vectors(sentences, options, tmp_path).key == first.key
    assert vectors_file.stat().st_mtime_ns == time
    # Another option, and other words: other vectors.
    word_vectors(sentences, options_of(model_dir, word_pooling="last"), tmp_path)
    word_vectors([Sentence(("w1 w2",), ("X",), "f")], options, tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 3


# -------------------------------------------------------------------------- taggers


def some_vectors(lengths: list[int]) -> TaggedVectors:
    rng = np.random.default_rng(1)
    starts = np.cumsum([0, *lengths])
    vectors = rng.standard_normal((starts[-1], 5, 8)).astype(np.float16)
    tags = [rng.integers(0, 3, length, dtype=np.int32) for length in lengths]
    scales = np.array([1, 2, 3, 4, 5], np.float32)
    return TaggedVectors(WordVectors(vectors, starts, "key"), tags, scales)


def test_a_batch_is_padded_with_what_does_not_count() -> None:
    some = some_vectors([2, 4])
    (vectors, is_word), tags, counts = some.batch([0, 1], slice(-2, None))
    assert vectors.shape == (2, 4, 2, 8)
    expected = some.vectors.of(0)[:, 3:] * np.array([[4], [5]], np.float32)
    np.testing.assert_array_equal(vectors[0, :2], expected)
    assert not vectors[0, 2:].any()
    assert is_word.tolist() == [[True, True, False, False], [True] * 4]
    assert counts.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert tags[1].tolist() == some.tags[1].tolist()


def test_every_sentence_is_in_one_batch_in_an_order_of_its_own() -> None:
    some = some_vectors([3] * 50 + [9] * 30)
    first, second = (some.batches(np.random.default_rng(seed)) for seed in (1, 2))
    assert sorted(itertools.chain(*first)) == list(range(80))
    assert [len(batch) for batch in some.batches()] == [32, 32, 16]
    assert first != second
    # Sentences of 3 and of 9 words are together in one batch only.
    assert sum({3, 9} == {len(some.tags[s]) for s in batch} for batch in first) == 1


def test_the_weighted_sum_is_elmos() -> None:
    mix = train_tagger.WeightedSum()
    mix.build((None, None, 3, 4))
    mix.layer_weights.assign([0.0, 1.0, 2.0])
    mix.scale.assign(1.5)
    vectors = np.random.default_rng(2).standard_normal((2, 5, 3, 4)).astype(np.float32)
    shares = np.exp([0.0, 1.0, 2.0]) / np.exp([0.0, 1.0, 2.0]).sum()
    expected = 1.5 * (vectors * shares[:, None]).sum(axis=2)
    np.testing.assert_allclose(mix(vectors), expected, atol=1e-6)
    np.testing.assert_allclose(mix.shares(), shares, atol=1e-6)


@pytest.mark.parametrize("tagger", [Tagger(LINEAR, 1, 0.1), Tagger(BILSTM, 1, 0.1, 3)])
def test_a_word_gets_the_same_tag_in_any_company(tagger: Tagger) -> None:
    some = some_vectors([2, 6])
    model = train_tagger.build_tagger(tagger, True, 5, 8, 3)
    (alone, together) = (
        np.array(model([*some.batch(sentences, slice(None))[0]]))
        for sentences in ([0], [0, 1])
    )
    assert together.shape == (2, 6, 3)
    np.testing.assert_allclose(together[0, :2], alone[0], atol=1e-6)


def test_a_seed_gives_the_same_run_whatever_was_trained_before() -> None:
    some = some_vectors([5] * 40)
    trainer = Trainer(Tagger(LINEAR, 3, 0.05), ROWS[3], some, 3)

    class Bar:
        num_epochs = 0

        def update(self) -> None:
            self.num_epochs += 1

    bar = Bar()
    first, other, again = (trainer.run(seed, some, bar) for seed in (1, 2, 1))
    assert bar.num_epochs == 9
    assert first == again
    assert first.shares is not None
    assert other.shares is not None
    # Learned: they were a quarter each.
    assert max(first.shares) > 0.26
    assert first.shares != other.shares
    assert sum(first.shares) == pytest.approx(1)


# ------------------------------------------------------------------------- the table


def make_runs() -> list[Run]:
    """The paper's order, but for the last layer, which is far above the others."""
    points = {**PAPER, "last layer": 99.0}
    shares = {row.name: [0.25, 0.75] for row in ROWS if row.is_sum}
    return [
        Run(tagger, row, seed, (points[row] + step * seed) / 100, shares.get(row))
        for tagger, step in ((LINEAR, 0.0), (BILSTM, 0.1))
        for row in PAPER
        for seed in (1, 2, 3)
    ]


def test_the_report_has_the_table_and_what_differs_from_the_paper() -> None:
    lines = to_report(make_runs()).splitlines()
    assert "| embeddings | 91.00 ± 0.00 | 91.20 ± 0.10 | 91.0 |" in lines
    assert "| last layer | 99.00 ± 0.00 | 99.20 ± 0.10 | 94.9 |" in lines
    place = lines.index("linear: the paper's order in 11 of 15 pairs of rows; not so:")
    assert lines[place + 1 : place + 5] == [
        "    last layer above concat of the last four: 2.90",
        "    last layer above weighted sum of the last four: 3.10",
        "    last layer above second-to-last layer: 3.40",
        "    last layer above weighted sum of all layers: 3.50",
    ]
    assert lines[-1] == (
        "BiLSTM, weighted sum of all layers, learned, lowest layer first: 0.25 0.75"
    )


def test_the_rows_are_the_papers() -> None:
    assert [row.name for row in ROWS] == list(PAPER)
    layers = ["embeddings", 0, 1, 2, 3, 4, 5]
    assert [layers[row.layers] for row in ROWS] == [
        *(["embeddings"], [4], [5], [2, 3, 4, 5], [2, 3, 4, 5], [0, 1, 2, 3, 4, 5]),
    ]


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "tagger.svg"
    draw_picture(make_runs(), str(picture), "17 tags")
    text = picture.read_text()
    assert text.count("<path") > 50


# --------------------------------------------------------------------- the whole of it


def run_main(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], *flags: str
) -> str:
    text_file = tmp_path / "a.conllu"
    text_file.write_text("".join(map(conllu, TEXTS * 40)))
    args = ["train_file", "test_file"]
    code = train_tagger.main(
        [
            f"--model_dir={model_dir}",
            *(f"--{name}={text_file}" for name in args),
            "--max_seq_length=16",
            f"--cache_dir={tmp_path / 'cache'}",
            *flags,
        ]
    )
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


@pytest.mark.slow
def test_a_linear_tagger_learns_the_words_and_a_second_run_takes_what_is_done(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--taggers", LINEAR, "--num_seeds=1", "--linear_epochs=20")
    output = run_main(model_dir, tmp_path, capsys, *flags)
    assert output.startswith("train: 240 sentences, 2,000 words\ntest: 240 ")
    # Every word has one tag, and the embeddings know the word. A third are one word.
    (row,) = (line for line in output.splitlines() if line.startswith("| embeddings |"))
    assert float(row.split()[3]) > 90, row
    runs_file = tmp_path / "cache" / "runs.json"
    content = json.loads(runs_file.read_text())
    assert len(content["runs"]) == len(ROWS)
    content["runs"][0]["accuracy"] = 0.5
    runs_file.write_text(json.dumps(content))
    output = run_main(model_dir, tmp_path, capsys, *flags)
    assert "| embeddings | 50.00 ± 0.00 | 91.0 |" in output


def test_runs_of_another_table_are_not_taken(tmp_path: Path) -> None:
    runs_file = tmp_path / "runs.json"
    assert read_runs(runs_file, {"epochs": 1}) == []
    write_runs(runs_file, {"epochs": 1}, make_runs())
    assert read_runs(runs_file, {"epochs": 1}) == make_runs()
    assert read_runs(runs_file, {"epochs": 2}) == []
    assert [path.name for path in tmp_path.iterdir()] == ["runs.json"]


@pytest.mark.slow
def test_a_bilstm_learns_what_stands_before_and_behind_a_word() -> None:
    rng = np.random.default_rng(3)
    lengths = [6, 9] * 150
    starts = np.cumsum([0, *lengths])
    vectors = rng.standard_normal((starts[-1], 1, 4)).astype(np.float16)
    words = WordVectors(vectors, starts, "key")
    tags = []
    for sentence in range(len(lengths)):
        is_high = np.pad(words.of(sentence)[:, 0, 0] > 0, 1)
        tags.append((is_high[:-2] + 2 * is_high[2:]).astype(np.int32))
    some = TaggedVectors(words, tags, np.ones(1, np.float32))
    tagger = Tagger(BILSTM, 25, 0.02, 8)
    run = Trainer(tagger, ROWS[0], some, 4).run(1, some, tqdm(disable=True))
    assert run.accuracy > 0.8, run  # the word itself tells nothing: a quarter


def test_a_mistake_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [f"--{name}={tmp_path}/none" for name in ("train_file", "test_file")]
    assert train_tagger.main([f"--model_dir={tmp_path}", *paths]) == 1
    error = capsys.readouterr().err
    assert error == (
        f"train_tagger.py: {tmp_path}/none: cannot be read: No such file or directory\n"
    )


def test_a_model_of_too_few_layers_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = write_random_model(tmp_path / "two")
    text_file = tmp_path / "a.conllu"
    text_file.write_text(conllu("w1 w2"))
    paths = [f"--{name}={text_file}" for name in ("train_file", "test_file")]
    args = [f"--model_dir={small}", *paths, f"--cache_dir={tmp_path}"]
    assert train_tagger.main(args) == 1
    assert "the model has 2 encoder layers, and the table" in capsys.readouterr().err
