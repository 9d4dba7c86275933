"""What the parts of a line hand on: by whatever threads, and never to another line."""

import threading
from collections.abc import Sequence

import numpy as np
import pytest

from bert_extract.inputs.features import Features
from bert_extract.inputs.line_parts import LineOptions, to_parts
from bert_extract.model.pooling import Layers, SentencePooling
from bert_extract.options import Options
from bert_extract.output import record_builder
from bert_extract.output.record import RecordPart
from bert_extract.output.record_builder import PoolingAbortedError, RecordBuilder
from bert_extract.text.examples import Example
from bert_extract.tokenization.tokenizer import Tokenizer
from bert_extract.tokenization.vocab import Vocab

# Far longer than anything here takes: a deadlock must fail, not hang.
PATIENCE = 20.0
SIZE = 3
TOKENS = ("[UNK]", "[CLS]", "[SEP]", "a", "##a", "b")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Cuts a word of the letter a into its letters."""
    ids = {token: i for i, token in enumerate(TOKENS)}
    return Tokenizer(Vocab(TOKENS, ids, (), "vocab.txt"), do_lower_case=True)


def parts_of(tokenizer: Tokenizer, unit: str, *texts: str) -> list[Features]:
    """The parts of lines, windows of eight wordpieces."""
    examples = [Example(number, text, None) for number, text in enumerate(texts)]
    layout = LineOptions(max_seq_length=10, unit=unit, stride=4)
    return list(to_parts(examples, tokenizer, layout))


def layers_of(parts: Sequence[Features]) -> list[Layers | None]:
    rng = np.random.default_rng(0)
    return [
        (rng.standard_normal((len(part.input_ids), SIZE)).astype(np.float32),)
        for part in parts
    ]


def builder_of(unit: str) -> RecordBuilder:
    return RecordBuilder(
        Options(unit=unit), TOKENS, (-1,), (0,), SIZE, SentencePooling()
    )


def in_threads(
    builder: RecordBuilder,
    groups: Sequence[Sequence[Features]],
    outputs: Sequence[Sequence[Layers | None]],
) -> dict[int, list[RecordPart] | BaseException]:
    """What comes of each group; the later ones are begun first."""
    found: dict[int, list[RecordPart] | BaseException] = {}

    def build(number: int) -> None:
        try:
            found[number] = builder.to_parts(groups[number], outputs[number])
        except BaseException as error:
            found[number] = error
            builder.abort(groups[number])  # as the engine does

    threads = [
        threading.Thread(target=build, args=(number,), daemon=True)
        for number in reversed(range(len(groups)))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(found) == [*range(len(groups))]
    return found


@pytest.mark.parametrize("group_size", [1, 3])
@pytest.mark.parametrize("unit", ["word", "sentence"])
def test_groups_wait_for_those_before_them(
    tokenizer: Tokenizer, unit: str, group_size: int
) -> None:
    """Words of up to sixty wordpieces, and lines that end within a group."""
    texts = ("a" * 30 + " b " + "a" * 60, "b", "a" * 20 + " b", "b " * 40)
    parts = parts_of(tokenizer, unit, *texts)
    outputs = layers_of(parts)
    assert len(parts) > 30
    expected = builder_of(unit).to_parts(parts, outputs)
    starts = range(0, len(parts), group_size)
    builder = builder_of(unit)
    found = in_threads(
        builder,
        [parts[start : start + group_size] for start in starts],
        [outputs[start : start + group_size] for start in starts],
    )
    built: list[RecordPart] = []
    for number in range(len(found)):
        of_group = found[number]
        assert isinstance(of_group, list)
        built += of_group
    assert built == expected
    # Nothing is kept of a line that is done.
    assert builder._handover._left == {}


@pytest.mark.parametrize("unit", ["word", "sentence"])
def test_nobody_waits_for_a_part_that_failed(
    tokenizer: Tokenizer, unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = parts_of(tokenizer, unit, "a" * 40, "b")
    num_of_line = len(parts) - 1
    assert num_of_line > 5
    outputs = layers_of(parts)
    pool = "pool_words" if unit == "word" else "pool_sentence"
    make = getattr(record_builder, pool)

    def failing(layers: Layers, *args: object, **options: object) -> object:
        if layers is outputs[1]:
            raise ValueError("broken")
        return make(layers, *args, **options)

    monkeypatch.setattr(record_builder, pool, failing)
    found = in_threads(
        builder_of(unit), [[part] for part in parts], [[o] for o in outputs]
    )
    assert isinstance(found[0], list)
    assert isinstance(found[1], ValueError)
    assert [type(found[number]) for number in range(2, num_of_line)] == [
        PoolingAbortedError
    ] * (num_of_line - 2)
    assert isinstance(found[num_of_line], list)


def test_nobody_waits_when_the_run_has_ended(tokenizer: Tokenizer) -> None:
    """What it waits for may never have been begun."""
    builder = builder_of("sentence")
    part = parts_of(tokenizer, "sentence", "a" * 40)[1]
    failures: list[BaseException] = []

    def build() -> None:
        try:
            builder.to_parts([part], layers_of([part]))
        except PoolingAbortedError as error:
            failures.append(error)

    threads = [threading.Thread(target=build, daemon=True) for _ in range(2)]
    threads[0].start()
    builder.close()
    threads[1].start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(failures) == 2


def test_lines_that_say_the_same_have_the_same_record_but_for_their_number(
    tokenizer: Tokenizer,
) -> None:
    texts = ["a a", "a a", "b", "a a", ""]
    examples = [Example(number, text, None) for number, text in enumerate(texts)]
    lines = list(to_parts(examples, tokenizer, LineOptions(max_seq_length=10)))
    outputs = layers_of(lines)
    # As the engine gives them: the very same arrays where all that went in is the same.
    outputs[1] = outputs[3] = outputs[0]
    builder = builder_of("wordpiece")
    alone = [builder.to_part(*each) for each in zip(lines, outputs, strict=True)]
    assert builder.to_parts(lines, outputs) == alone
    assert [part.record.linex_index for part in alone] == [*range(5)]
