"""The words closest to one are those that comparing all of them gives."""

from pathlib import Path

import numpy as np
import pytest

from bert_extract import InputError, Record
from bert_extract.inspecting.nearest import nearest_words
from bert_extract.inspecting.words import words_of
from support.record_files import SUFFIXES, write_records


def record_of(linex_index: int, text: str, size: int = 8) -> Record:
    """A record of wordpieces with vectors that are random, and always the same."""
    tokens = ("[CLS]", *text.split(), "[SEP]")
    rng = np.random.default_rng(linex_index)
    layers = rng.normal(size=(2, len(tokens), size)).astype(np.float32)
    return Record(linex_index, tokens, (-1, "embeddings"), tuple(layers))


TEXTS = (
    "the river bank",
    "",
    "a puppet ##eer sat on the bank",
    "the bank took the money from the puppet ##eer",
    "Bank and bank and river and money",
)
RECORDS = [record_of(number, text) for number, text in enumerate(TEXTS)]


@pytest.fixture(params=SUFFIXES)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_records(tmp_path / f"output{request.param}", RECORDS)


def by_comparing_all(
    word: str, line: int, layer: int, num_words: int
) -> list[tuple[str, float]]:
    """The plain statement: every word of every line, sorted."""
    all_words = []
    for record in RECORDS:
        spans: list[list[int]] = []
        for place, token in enumerate(record.tokens):
            if token.startswith("##"):
                spans[-1].append(place)
            elif token not in ("[CLS]", "[SEP]"):
                spans.append([place])
        for span in spans:
            text = "".join(record.tokens[place].removeprefix("##") for place in span)
            vector = record.layers[layer][span].astype(np.float64).mean(axis=0)
            all_words.append((record.linex_index, text, vector))
    own = next(n for n, each in enumerate(all_words) if each[:2] == (line, word))
    query = all_words.pop(own)[2]
    best: dict[str, float] = {}
    for _, text, vector in all_words:
        cosine = vector @ query / np.linalg.norm(vector) / np.linalg.norm(query)
        best[text] = max(best.get(text, -2.0), float(cosine))
    return sorted(best.items(), key=lambda each: -each[1])[:num_words]


@pytest.mark.parametrize("num_words", [1, 3, 100])
@pytest.mark.parametrize(("line", "first"), [(None, 0), (2, 2), (4, 4)])
@pytest.mark.parametrize(("layer", "number"), [(None, 0), ("embeddings", 1)])
def test_the_closest_words_are_found(
    path: Path,
    num_words: int,
    line: int | None,
    first: int,
    layer: str | None,
    number: int,
) -> None:
    found = nearest_words(path, "bank", layer=layer, line=line, num=num_words)
    expected = by_comparing_all("bank", first, number, num_words)
    assert [each.place.word for each in found.neighbours] == [
        text for text, _ in expected
    ]
    assert [each.similarity for each in found.neighbours] == pytest.approx(
        [cosine for _, cosine in expected], abs=1e-5
    )
    assert found.num_compared == 23
    assert found.place.linex_index == first


def test_a_word_of_several_wordpieces_is_one(path: Path) -> None:
    found = nearest_words(path, "puppeteer", num=1)
    assert str(found.place) == "a [puppeteer] sat on the bank"
    assert found.place.position == 2
    ((text, _),) = by_comparing_all("puppeteer", 2, 0, 1)
    assert found.neighbours[0].place.word == text


def test_the_text_for_people(path: Path) -> None:
    lines = str(nearest_words(path, "money", num=2)).splitlines()
    assert lines[0] == (
        "closest to the bank took the [money] from the puppeteer (line 3) by cosine, "
        "layer -1, of 23 words:"
    )
    assert len(lines) == 3
    assert all("line " in line and "[" in line for line in lines[1:])


def test_a_word_that_is_not_there_is_told_with_what_is(path: Path) -> None:
    with pytest.raises(InputError, match=r"the word 'BANK', found none; there is bank"):
        nearest_words(path, "BANK")
    with pytest.raises(InputError, match=r"'money' in line 2, found none$"):
        nearest_words(path, "money", line=2)
    with pytest.raises(InputError, match="expected the layer 7"):
        nearest_words(path, "bank", layer=7)


def test_sentences_have_no_words(tmp_path: Path) -> None:
    record = Record(0, ("[MEAN]",), (-1,), (np.ones((1, 4), np.float32),))
    path = write_records(tmp_path / "output.jsonl", [record])
    with pytest.raises(InputError, match="make a file with --unit=word"):
        nearest_words(path, "bank")


def test_words_without_a_vector_are_close_to_none(tmp_path: Path) -> None:
    vectors = np.array([[1, 0], [0, 0], [1, 1]], np.float32)
    record = Record(0, ("a", "##b", "c"), (-1,), (vectors,))
    path = write_records(tmp_path / "output.parquet", [record])
    found = nearest_words(path, "a")
    # Words are not wordpieces: nothing is put together.
    assert [(each.place.word, each.similarity) for each in found.neighbours] == [
        ("c", pytest.approx(0.7071, abs=1e-4)),
        ("##b", 0.0),
    ]


def test_a_line_whose_first_wordpiece_goes_on_loses_nothing() -> None:
    words = words_of(record_of(0, "bank ##s ##ide ##"))
    assert words.texts == ("bankside",)
    assert words.positions == (1,)
    mean = RECORDS[0].layers[0]
    assert words.layers[0].shape == (1, mean.shape[1])
