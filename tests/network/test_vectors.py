"""vectors_dataset: batches of what was computed before, in order and shuffled."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from bert_extract import load_features, vectors_dataset
from bert_extract.errors import ArgumentTypeError, InputError
from bert_extract.network import vectors
from support.extracted_files import extract_to_all
from support.record_files import SUFFIXES

LINES = [f"the river bank {'money ' * (n % 5)}" if n % 7 else "" for n in range(50)]
LABELS = np.arange(50) * 10


@pytest.fixture(scope="module")
def files(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("records")
    return extract_to_all(tiny_bert, folder, LINES, unit="word", layers=[-1, 0])


def batches_of(dataset: Any) -> list[Any]:
    return list(dataset.as_numpy_iterator())


def labels_of(dataset: Any) -> list[int]:
    return [int(label) for _, labels in batches_of(dataset) for label in labels]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_batches_are_the_records(suffix: str, files: dict[str, Path]) -> None:
    dataset = vectors_dataset(files[suffix], LABELS, batch_size=8)
    assert dataset.cardinality().numpy() == 7
    found = batches_of(dataset)
    assert [len(labels) for _, labels in found] == [8] * 6 + [2]
    assert np.concatenate([labels for _, labels in found]).tolist() == LABELS.tolist()
    records = iter(load_features(files[suffix]))
    for batch, _ in found:
        assert batch.dtype == np.float32
        for row in batch:  # [2, num_tokens, 32]
            record = next(records)
            num_tokens = len(record.tokens)
            if num_tokens:
                np.testing.assert_array_equal(row[:, :num_tokens], record.vectors)
            assert not row[:, num_tokens:].any()
        assert batch.shape[2] == max(7 if len(batch) == 8 else 0, batch.shape[2])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_epoch_has_each_record_once_with_its_label(
    suffix: str, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "_POOL_BYTES", 4000)  # some records
    path = files[suffix]

    def epochs(seed: int) -> list[list[int]]:
        dataset = vectors_dataset(
            path, LABELS, layers=[-1], batch_size=8, shuffle=True, seed=seed
        )
        return [labels_of(dataset) for _ in range(2)]

    one, other = epochs(1)
    assert sorted(one) == sorted(other) == LABELS.tolist()
    assert one != other
    assert epochs(1) == [one, other]
    assert epochs(2)[0] != one
    by_line = {r.linex_index: r for r in load_features(path, layers=[-1])}
    shuffled = vectors_dataset(
        path, LABELS, layers=[-1], batch_size=8, shuffle=True, seed=3
    )
    for batch, labels in batches_of(shuffled):
        for row, label in zip(batch, labels, strict=True):
            record = by_line[label // 10]
            expected = record.layers[0] if record.tokens else np.zeros((0, 32))
            np.testing.assert_array_equal(row[: len(expected)], expected)


def test_a_small_pool_mixes_more_than_what_stands_together() -> None:
    entries = [vectors._Entry(n, np.zeros((1, 1, 10), np.float32)) for n in range(400)]
    random = np.random.default_rng(0)
    found = [entry.linex_index for entry in vectors._pooled(iter(entries), random)]
    assert sorted(found) == list(range(400))
    distance = np.abs(np.array(found) - np.arange(400)).mean()
    assert distance > 100  # 133 of a uniform order


def test_records_of_one_length_share_batches(files: dict[str, Path]) -> None:
    def slots(**fields: Any) -> int:
        dataset = vectors_dataset(files[".h5"], layers=0, batch_size=8, **fields)
        return sum(len(batch) * batch.shape[1] for batch in batches_of(dataset))

    assert slots(shuffle=True, seed=0) < 0.8 * slots()


def test_the_first_entry_can_be_taken_alone(files: dict[str, Path]) -> None:
    dataset = vectors_dataset(files[".parquet"], first_only=True, batch_size=50)
    (batch,) = batches_of(dataset)
    assert batch.shape == (50, 2, 32)
    assert not batch[0].any()  # a blank line
    record = load_features(files[".parquet"])[1]
    np.testing.assert_array_equal(batch[1], record.vectors[:, 0])
    one = vectors_dataset(files[".jsonl"], layers=0, first_only=True, batch_size=50)
    assert batches_of(one)[0].shape == (50, 32)


def test_a_model_is_trained_with_them(files: dict[str, Path]) -> None:
    labels = np.array(["money" in line for line in LINES], np.float32)
    model: Any = keras.Sequential(
        [
            keras.Input((None, 32)),
            keras.layers.GlobalMaxPooling1D(),
            keras.layers.Dense(1, "sigmoid"),
        ]
    )
    model.compile(keras.optimizers.SGD(0.5), "binary_crossentropy")
    dataset = vectors_dataset(files[".jsonl"], labels, layers=-1, shuffle=True, seed=1)
    fitted = model.fit(dataset, epochs=8, shuffle=False, verbose=0)
    losses = fitted.history["loss"]
    assert losses[-1] < 0.7 * losses[0]


def parts(files: dict[str, Path], folder: Path, ends: Sequence[int]) -> list[Path]:
    lines = files[".jsonl"].read_bytes().splitlines(keepends=True)
    paths = []
    for number, (start, end) in enumerate(zip([0, *ends], [*ends, 50], strict=True)):
        paths.append(folder / f"{number}.jsonl")
        paths[-1].write_bytes(b"".join(lines[start:end]))
    return paths


def test_shards_are_read_as_one(files: dict[str, Path], tmp_path: Path) -> None:
    paths = parts(files, tmp_path, [20, 33])
    assert labels_of(vectors_dataset(paths, LABELS)) == LABELS.tolist()
    shuffled = labels_of(vectors_dataset(paths, LABELS, shuffle=True))
    assert sorted(shuffled) == LABELS.tolist()


def test_labels_that_are_missing_are_told_at_once(files: dict[str, Path]) -> None:
    with pytest.raises(ArgumentTypeError, match="50 records, and 49 labels"):
        vectors_dataset(files[".jsonl"], LABELS[:49])


def test_a_line_without_a_label_and_one_that_comes_twice_are_refused(
    files: dict[str, Path], tmp_path: Path
) -> None:
    first, second = parts(files, tmp_path, [10])
    with pytest.raises(tf.errors.OpError, match="there are 40, and none for line 40"):
        batches_of(vectors_dataset(second, LABELS[:40]))
    with pytest.raises(tf.errors.OpError, match="and 0 comes twice"):
        batches_of(vectors_dataset([first, first], LABELS))


def test_a_layer_that_is_not_there_is_told_at_once(files: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="expected the layer 5"):
        vectors_dataset(files[".jsonl"], layers=5)


def test_a_file_without_vectors_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(InputError, match="expected records with vectors"):
        vectors_dataset(tmp_path / "empty.jsonl")
