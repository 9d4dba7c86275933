"""One word in several places is compared layer by layer; words become points."""

from pathlib import Path

import numpy as np
import pytest

from bert_extract import InputError, OptionsError, Record
from bert_extract.inspecting.contexts import word_contexts, word_vectors
from support.record_files import SUFFIXES, write_records

TEXTS = ("the bank", "no such word", "bank bank", "Bank of the ban ##k")
INDEXES = (-1, "embeddings", -3, -2)


def records() -> list[Record]:
    made = []
    for number, text in enumerate(TEXTS):
        tokens = ("[CLS]", *text.split(), "[SEP]")
        rng = np.random.default_rng(number)
        layers = rng.normal(size=(len(INDEXES), len(tokens), 6)).astype(np.float32)
        made.append(Record(number, tokens, INDEXES, tuple(layers)))
    return made


@pytest.fixture(params=SUFFIXES)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_records(tmp_path / f"output{request.param}", records())


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def test_a_word_is_compared_with_itself_elsewhere(path: Path) -> None:
    found = word_contexts(path, "bank")
    assert found.layers == ("embeddings", -3, -2, -1)
    assert [(p.linex_index, p.position) for p in found.places] == [
        *((0, 2), (2, 1), (2, 2), (3, 4)),
    ]
    assert found.similarities.shape == (4, 4, 4)
    first, _, third, fourth = records()
    expected = cosine(first.layers[2][2], third.layers[2][1])
    assert found.similarities[1, 0, 1] == pytest.approx(expected, abs=1e-5)
    pieces = fourth.layers[0][4:6].mean(axis=0)
    expected = cosine(third.layers[0][2], pieces)
    assert found.similarities[3, 2, 3] == pytest.approx(expected, abs=1e-5)
    assert found.similarities[0].diagonal() == pytest.approx(1.0, abs=1e-5)


def test_only_as_many_places_as_are_wanted_and_these_layers(path: Path) -> None:
    found = word_contexts(path, "bank", layers=[-2, -1], num=2)
    assert (found.layers, len(found.places)) == ((-2, -1), 2)
    lines = str(found).splitlines()
    assert lines[0].split(maxsplit=2) == [
        *("-2", "-1", "cosine to the [bank], layer by layer"),
    ]
    assert lines[1].split(maxsplit=2) == ["1.000", "1.000", "line 0: the [bank]"]
    assert lines[2].endswith("line 2: [bank] bank")


def test_layers_whose_order_nobody_knows_stay_as_they_are(tmp_path: Path) -> None:
    made = [
        Record(each.linex_index, each.tokens, (3, -1, "embeddings", 0), each.layers)
        for each in records()
    ]
    path = write_records(tmp_path / "output.jsonl", made)
    assert word_contexts(path, "bank").layers == (3, -1, "embeddings", 0)


def test_a_word_that_cannot_be_compared(path: Path) -> None:
    with pytest.raises(InputError, match=r"the word 'BANK', found none; there is bank"):
        word_contexts(path, "BANK")
    with pytest.raises(InputError, match=r"'no' in two places .* line 1 alone"):
        word_contexts(path, "no")
    with pytest.raises(OptionsError, match="from 2 on, found 1"):
        word_contexts(path, "bank", num=1)


def test_the_vectors_of_some_words(path: Path) -> None:
    found = word_vectors(path, ["bank", "word"], layer=-3)
    assert found.layer == -3
    assert [each.word for each in found.places] == ["bank", "word", *["bank"] * 3]
    expected = [
        records()[0].layers[2][2],
        records()[1].layers[2][3],
        *records()[2].layers[2][1:3],
        records()[3].layers[2][4:6].mean(axis=0),
    ]
    assert found.vectors == pytest.approx(np.stack(expected), abs=1e-6)
    everything = word_vectors(path)
    assert (everything.layer, len(everything.places)) == (-1, 11)
    assert len(word_vectors(path, num=4).places) == 4


def test_words_that_are_too_few(path: Path) -> None:
    with pytest.raises(InputError, match=r"the word 'money', found none"):
        word_vectors(path, ["bank", "money"])
    with pytest.raises(InputError, match="expected three words at least, found 1"):
        word_vectors(path, ["no"])
    with pytest.raises(OptionsError, match="from 3 on, found 2"):
        word_vectors(path, num=2)


def test_entries_without_a_layer_have_no_vectors(tmp_path: Path) -> None:
    path = tmp_path / "output.jsonl"
    path.write_text(
        '{"linex_index": 0, "features": [{"token": "bank", "layers": []}]}\n'
    )
    with pytest.raises(InputError, match="found entries without a layer"):
        word_contexts(path, "bank")
    with pytest.raises(InputError, match="found no entry with a layer"):
        word_vectors(path)
