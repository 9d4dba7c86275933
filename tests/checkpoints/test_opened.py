"""A checkpoint is opened once, and what is said of it is said of the weights read."""

import os
import shutil
from pathlib import Path

import pytest

from bert_extract.checkpoints.loading import load_weights
from bert_extract.checkpoints.opened import open_checkpoint
from bert_extract.checkpoints.safetensors_file import SafetensorsFile
from bert_extract.errors import CheckpointError, OptionsError
from bert_extract.jobs import run_job
from bert_extract.loaded_model import LoadedModel, OpenedModel
from bert_extract.options import Job
from support.make_checkpoints import (
    random_weights,
    to_huggingface_weights,
    write_safetensors,
    write_shards,
    write_tf1_checkpoint,
)
from support.running import options_for
from support.small_bert import CONFIG, WORDS

CHANGED = "was changed while it was in use: start again when nothing writes to it"


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    path = tmp_path / "bert_model.ckpt"
    write(str(path), seed=1)
    return str(path)


def write(prefix: str, seed: int) -> None:
    """Weights of the same sizes, written at another time, however coarse the clock."""
    write_tf1_checkpoint(prefix, random_weights(CONFIG, seed))
    for suffix in ("index", "data-00000-of-00001"):
        os.utime(f"{prefix}.{suffix}", (seed, seed))


def test_it_knows_its_files(prefix: str, tmp_path: Path) -> None:
    index, data = f"{prefix}.index", f"{prefix}.data-00000-of-00001"
    assert open_checkpoint(prefix).files == (index, data)
    assert open_checkpoint(str(tmp_path)).files == (index, data)
    weights = to_huggingface_weights(random_weights(CONFIG, seed=1))
    sharded = tmp_path / "sharded"
    sharded.mkdir()
    write_shards(sharded, weights)
    names = sorted(str(path) for path in sharded.iterdir())
    assert len(names) == 3
    assert open_checkpoint(str(sharded)).files == tuple(names)
    single = tmp_path / "model.safetensors"
    write_safetensors(single, weights)
    assert open_checkpoint(str(single)).files == (str(single),)


def test_its_checksum_is_computed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, to_huggingface_weights(random_weights(CONFIG, seed=1)))
    calls: list[str] = []
    compute = SafetensorsFile.checksum

    def counted(self: SafetensorsFile) -> str:
        calls.append(self.path)
        return compute(self)

    monkeypatch.setattr(SafetensorsFile, "checksum", counted)
    checkpoint = open_checkpoint(str(path))
    assert calls == []
    checksums = {checkpoint.checksum(), checkpoint.checksum()}
    load_weights(checkpoint, CONFIG)
    checksums.add(checkpoint.checksum())
    assert len(checksums) == 1
    assert calls == [str(path)]


def test_other_weights_before_they_are_read(prefix: str) -> None:
    checkpoint = open_checkpoint(prefix)
    before = checkpoint.checksum()
    write(prefix, seed=2)
    after = checkpoint.checksum()
    assert after == open_checkpoint(prefix).checksum() != before
    write(prefix, seed=3)
    weights = load_weights(checkpoint, CONFIG).weights
    expected = random_weights(CONFIG, seed=3)[WORDS]
    assert weights[WORDS].numpy().tobytes() == expected.tobytes()
    assert checkpoint.checksum() == open_checkpoint(prefix).checksum() != after


def test_other_weights_while_they_are_read(prefix: str) -> None:
    checkpoint = open_checkpoint(prefix)
    checkpoint.begin_reading()
    write(prefix, seed=2)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.end_reading()
    assert str(caught.value) == f"{prefix}.index: {CHANGED}"


def test_other_weights_after_they_were_read(prefix: str) -> None:
    known, unknown = open_checkpoint(prefix), open_checkpoint(prefix)
    checksum = known.checksum()
    load_weights(known, CONFIG)
    load_weights(unknown, CONFIG)
    write(prefix, seed=2)
    # Of the weights in memory, which are still the old ones.
    assert known.checksum() == checksum
    with pytest.raises(CheckpointError, match=CHANGED):
        unknown.checksum()


@pytest.fixture
def model_dir(tiny_bert: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bert, tmp_path / "model"))


def test_a_job_has_the_weights_that_its_fingerprint_says(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = OpenedModel(options_for(model_dir, layers="-1"))
    load = model.load
    prefix = model_dir / "bert_model.ckpt"

    def load_others() -> LoadedModel:
        write_tf1_checkpoint(prefix, random_weights(model.config, seed=7))
        return load()

    monkeypatch.setattr(model, "load", load_others)
    (tmp_path / "in.txt").write_bytes(b"one\n")
    output_file = tmp_path / "out.json"
    job = Job(input_file=str(tmp_path / "in.txt"), output_file=str(output_file))
    with pytest.raises(CheckpointError, match=CHANGED):
        run_job(model, job, [])
    assert not output_file.exists()


def test_no_file_of_a_checkpoint_that_lies_elsewhere_is_written(
    model_dir: Path, tmp_path: Path
) -> None:
    """A folder's file `checkpoint` may name what is in another folder."""
    index_file = next(model_dir.glob("*.index"))
    prefix = str(index_file.with_suffix(""))
    here = tmp_path / "here"
    here.mkdir()
    (here / "checkpoint").write_text(f'model_checkpoint_path: "{prefix}"\n')
    model = OpenedModel(options_for(model_dir, layers="-1", init_checkpoint=str(here)))
    content = index_file.read_bytes()
    (tmp_path / "in.txt").write_bytes(b"one\n")
    job = Job(
        input_file=str(tmp_path / "in.txt"),
        output_file=str(index_file),
        output_format="jsonl",
        overwrite=True,
    )
    with pytest.raises(OptionsError, match=r"is read \(--init_checkpoint\)"):
        run_job(model, job, [])
    assert index_file.read_bytes() == content
