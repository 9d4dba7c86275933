"""Whatever the unit is, the bytes depend on the lines alone: also in parts, resumed."""

import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from bert_extract import Job, NotFiniteError
from bert_extract.engine import Engine
from bert_extract.inputs import batching
from bert_extract.jobs import run_job
from bert_extract.loaded_model import OpenedModel
from bert_extract.output import record_builder
from bert_extract.output.json_lines import JsonFormatter
from bert_extract.output.record import RecordPart
from bert_extract.progress import Summary
from bert_extract.text.examples import Example
from support.nasty_text import nasty_lines
from support.running import options_for

# Far longer than anything here takes: a deadlock must fail, not hang.
PATIENCE = 20.0
WINDOW = {"long_text": "window", "max_seq_length": 9, "doc_stride": 3, "layers": "-1"}
KINDS: dict[str, dict[str, Any]] = {
    "windows": {**WINDOW, "offsets": True},
    "words": {**WINDOW, "unit": "word"},
    "sentences": {**WINDOW, "unit": "sentence", "layers": "-1,0"},
    "pooler": {"unit": "sentence", "sentence_pooling": "pooler"},
    "concat": {"layer_pooling": "concat", "layers": "-1,embeddings"},
}


@pytest.fixture(scope="module")
def input_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short lines, pairs, and between them long ones of up to forty windows."""
    nasty = [line.replace("\n", "") for line in nasty_lines(seed=4, num_lines=80)]
    pairs = [f"{a} ||| {b}" for a, b in pairwise(nasty[:20])]
    long = [("unaffable river " * number)[:-1] for number in (60, 1, 33, 7)]
    lines = [*nasty[:30], *long, *pairs, *nasty[30:], " ".join(nasty), "the end"]
    path = tmp_path_factory.mktemp("input") / "in.txt"
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return path


class Runner:
    """One model for each kind, and what a run in one go writes."""

    def __init__(self, model_dir: Path, input_file: Path, folder: Path) -> None:
        self._model_dir = model_dir
        self._input_file = input_file
        self._folder = folder
        self._models: dict[str, OpenedModel] = {}

    def model(self, kind: str) -> OpenedModel:
        if kind not in self._models:
            self._models[kind] = OpenedModel(
                options_for(self._model_dir, **KINDS[kind])
            )
        return self._models[kind]

    def run(self, kind: str | OpenedModel, name: str, **options: Any) -> Path:
        output = self._folder / name
        job = Job(input_file=str(self._input_file), output_file=str(output), **options)
        run_job(self.model(kind) if isinstance(kind, str) else kind, job, [])
        return output

    def whole(self, kind: str, suffix: str = ".jsonl") -> bytes:
        output = self._folder / f"{kind}.whole{suffix}"
        if not output.exists():
            self.run(kind, output.name)
        return output.read_bytes()


@pytest.fixture(scope="module")
def runner(
    tiny_bert: Path, input_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Runner:
    return Runner(tiny_bert, input_file, tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize("kind", KINDS)
def test_batches_and_threads_change_no_byte(
    runner: Runner, tiny_bert: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = runner.whole(kind)
    options = {**KINDS[kind], "batch_size": 2, "num_threads": 5}
    other = OpenedModel(options_for(tiny_bert, **options))
    # Stretches of a few groups, too.
    monkeypatch.setattr(batching, "_MAX_STRETCH_LINES", 20)
    assert runner.run(other, f"{kind}.other.jsonl").read_bytes() == whole


@pytest.mark.parametrize("kind", KINDS)
def test_shards_add_up(runner: Runner, kind: str) -> None:
    shards = [
        runner.run(kind, f"{kind}.{i}.jsonl", shard=f"{i}/3").read_bytes()
        for i in range(3)
    ]
    assert b"".join(shards) == runner.whole(kind)


class Stop(BaseException):
    pass


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
@pytest.mark.parametrize("kind", ["windows", "words", "sentences"])
def test_a_run_goes_on_wherever_it_was_stopped(
    runner: Runner, kind: str, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the middle of a long line, which is then begun again."""
    whole = runner.whole(kind, suffix)
    monkeypatch.setattr(batching, "_MAX_STRETCH_LINES", 1)
    for number in (1, 6, 9):
        run_groups = Engine.run

        def stopping(
            *args: Any,
            number: int = number,
            run_groups: Any = run_groups,
            **options: Any,
        ) -> Iterator[Any]:
            for taken, group in enumerate(run_groups(*args, **options)):
                if taken == number:
                    raise Stop
                yield group

        name = f"{kind}.{number}{suffix}"
        with monkeypatch.context() as patched:
            patched.setattr(Engine, "run", stopping)
            with pytest.raises(Stop):
                runner.run(kind, name)
        assert runner.run(kind, name, resume=True).read_bytes() == whole


def test_groups_of_a_long_line_are_cut_in_its_middle(runner: Runner) -> None:
    """Else the test above would show nothing."""
    examples = [long_line("river " * 600)]
    words = Engine(runner.model("words"))
    groups = words.run(examples, list, Summary())
    sizes = [len(group.lines) for group in groups]
    assert sizes[0] == sizes[1] == 16
    assert len(sizes) > 10


def long_line(text: str) -> Any:
    return Example(0, text.strip(), None)


@pytest.mark.parametrize("kind", ["words", "sentences"])
def test_a_part_that_fails_ends_the_run(
    runner: Runner, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parts behind it wait for what it would have handed on."""
    num_made = 0
    make = record_builder.RecordBuilder.to_part

    def failing(*args: Any) -> RecordPart:
        nonlocal num_made
        num_made += 1
        if num_made == 20:
            raise NotFiniteError("here")
        return make(*args)

    monkeypatch.setattr(record_builder.RecordBuilder, "to_part", failing)
    tiny = Engine(runner.model(kind))
    groups = tiny.run([long_line("unaffable " * 900)], list, Summary())
    with pytest.raises(NotFiniteError, match="here"):
        list(groups)


def test_the_parts_of_a_line_are_one_line_of_json(runner: Runner) -> None:
    words = Engine(runner.model("words"))
    formatter = JsonFormatter(words.model.layer_plan.layer_names)
    groups = words.run([long_line("unaffable river " * 300)], list, Summary())
    parts = [part for group in groups for part in group.encoded]
    assert len(parts) > 50
    text = b"".join(bytes(formatter.format(part)) for part in parts)
    assert text.count(b"\n") == 1
    assert text.count(b'"token": "unaffable"') == 300
    positions = [part.position for part in parts]
    sizes = [len(part.record.tokens) for part in parts]
    assert positions == [sum(sizes[:number]) for number in range(len(sizes))]


@pytest.mark.parametrize("kind", ["words", "sentences"])
def test_runs_of_one_engine_hand_nothing_to_each_other(
    runner: Runner, kind: str
) -> None:
    """Their lines have the same numbers, and both are in the middle of one."""
    tiny = Engine(runner.model(kind))
    has_begun, may_go_on = threading.Event(), threading.Event()

    def waiting(parts: Sequence[RecordPart]) -> list[RecordPart]:
        has_begun.set()
        may_go_on.wait(PATIENCE)
        return list(parts)

    def run(
        encode: Callable[[Sequence[RecordPart]], list[RecordPart]],
    ) -> Iterator[RecordPart]:
        # Words of sixty wordpieces, and windows of seven.
        example = long_line(("unaffable" * 20 + " river ") * 60)
        for group in tiny.run([example], encode, Summary()):
            yield from group.encoded

    expected = list(run(list))
    slow: list[RecordPart] = []
    thread = threading.Thread(target=lambda: slow.extend(run(waiting)), daemon=True)
    thread.start()
    assert has_begun.wait(PATIENCE)
    assert list(run(list)) == expected
    may_go_on.set()
    thread.join(PATIENCE)
    assert slow == expected
