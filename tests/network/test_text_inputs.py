"""BertInputs: texts as tensors, and as batches of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_extract import BertInputs
from bert_extract.errors import ArgumentTypeError, BertExtractError, InputError
from bert_extract.network.text_inputs import batch_places

TEXTS: list[str | tuple[str, str]] = [
    "the river bank",
    ("Who ?", "Jim Henson"),
    "",
    "a ||| b",
]


@pytest.fixture(scope="module")
def inputs(tiny_bert: Path) -> BertInputs:
    return BertInputs.from_model_dir(tiny_bert, max_seq_length=16)


def test_texts_become_padded_ids(inputs: BertInputs) -> None:
    batch = {name: tensor.numpy() for name, tensor in inputs(TEXTS).items()}
    assert {array.dtype for array in batch.values()} == {np.dtype(np.int32)}
    assert batch["input_mask"].sum(axis=1).tolist() == [5, 7, 2, 5]
    assert batch["token_type_ids"].tolist() == [
        [0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 1, 1],
        [0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 1, 0, 0],
    ]
    ids = batch["input_ids"]
    assert len(set(ids[:, 0])) == 1  # [CLS]
    assert (ids[batch["input_mask"] == 0] == 0).all()


def test_a_length_can_be_asked_for(inputs: BertInputs) -> None:
    assert inputs(TEXTS, seq_length=9)["input_ids"].shape == (4, 9)
    with pytest.raises(ArgumentTypeError, match="at least 7, the longest"):
        inputs(TEXTS, seq_length=6)


def test_long_texts_are_truncated(inputs: BertInputs) -> None:
    assert inputs(["bank " * 40])["input_ids"].shape == (1, 16)


def test_a_dataset_has_every_text_in_order(inputs: BertInputs) -> None:
    texts = ["bank " * (number % 7) for number in range(10)]
    dataset = inputs.dataset(texts, np.arange(10), batch_size=4)
    assert dataset.cardinality().numpy() == 3
    batches = list(dataset.as_numpy_iterator())
    assert [labels.tolist() for _, labels in batches] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9],
    ]
    lengths = [batch["input_ids"].shape[1] for batch, _ in batches]
    assert lengths == [5, 8, 4]
    without = list(inputs.dataset(texts, batch_size=4).as_numpy_iterator())
    np.testing.assert_array_equal(without[1]["input_ids"], batches[1][0]["input_ids"])


def test_every_epoch_of_shuffled_texts_has_each_once(inputs: BertInputs) -> None:
    texts = ["bank " * (number % 7) for number in range(30)]
    labels = np.arange(30)

    def epochs(seed: int) -> list[list[int]]:
        dataset = inputs.dataset(texts, labels, batch_size=4, shuffle=True, seed=seed)
        return [
            [int(label) for _, batch in dataset.as_numpy_iterator() for label in batch]
            for _ in range(2)
        ]

    one, other = epochs(1)
    assert sorted(one) == sorted(other) == labels.tolist()
    assert one != other
    assert epochs(1) == [one, other]
    assert epochs(2) != [one, other]


def test_shuffled_texts_of_one_length_share_batches() -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(3, 60, 2000)
    batches = list(batch_places(lengths, 16, random))
    assert sorted(np.concatenate(batches)) == list(range(2000))
    slots = sum(len(places) * lengths[places].max() for places in batches)
    assert slots / lengths.sum() < 1.05
    in_order = sum(lengths[i : i + 16].max() * 16 for i in range(0, 2000, 16))
    assert in_order / lengths.sum() > 1.7


@pytest.mark.parametrize(
    ("texts", "fields", "message"),
    [
        ("the bank", {}, "expected several texts"),
        ([1], {}, "that of index 0 is 1"),
        (["a", "b"], {"labels": [1]}, "expected 2, found 1"),
    ],
)
def test_what_is_no_text_is_refused(
    texts: Any, fields: dict[str, Any], message: str, inputs: BertInputs
) -> None:
    with pytest.raises(ArgumentTypeError, match=message):
        inputs.dataset(texts, **fields)


def changed(tiny_bert: Path, folder: Path, key: str, value: int) -> BertInputs:
    for path in tiny_bert.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config_file = folder / "bert_config.json"
    text = config_file.read_text(encoding="utf-8").rstrip().removesuffix("}")
    config_file.write_text(f'{text}, "{key}": {value}}}')  # the last one counts
    return BertInputs.from_model_dir(folder, max_seq_length=16)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("type_vocab_size", 1, "text 1 is a pair, and .* takes single texts only"),
        ("vocab_size", 103, "text 0: .* has no embedding: .* vocab_size 103"),
    ],
)
def test_what_has_no_embedding_is_refused(
    key: str, value: int, message: str, tiny_bert: Path, tmp_path: Path
) -> None:
    inputs = changed(tiny_bert, tmp_path, key, value)
    with pytest.raises(InputError, match=message):
        inputs(TEXTS)


def test_more_tokens_than_positions_are_refused(tiny_bert: Path) -> None:
    with pytest.raises(BertExtractError, match="at most 64, the positions"):
        BertInputs.from_model_dir(tiny_bert)
