"""The loop: what is checked before it, counted in it, and never done twice."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from bert_extract import Options, Record, engine
from bert_extract.engine import Engine
from bert_extract.errors import InputError, OptionsError
from bert_extract.loaded_model import OpenedModel
from bert_extract.model import arithmetic, devices
from bert_extract.model.config import BertConfig
from bert_extract.model.devices import Device
from bert_extract.model.layer_plan import LayerPlan
from bert_extract.output.record import RecordPart
from bert_extract.progress import Summary
from bert_extract.text.examples import Example, parse_line
from support.running import options_for, write_random_model


def records_of(parts: Sequence[RecordPart]) -> Sequence[Record]:
    return [part.record for part in parts]


def run(tiny: Engine, lines: Sequence[str], summary: Summary) -> list[Record]:
    examples = [Example(number, line, None) for number, line in enumerate(lines)]
    groups = tiny.run(examples, records_of, summary)
    return [record for group in groups for record in group.encoded]


@pytest.fixture(scope="module")
def tiny(tiny_bert: Path) -> Engine:
    return Engine(OpenedModel(options_for(tiny_bert, layers="-1")))


def test_counts_go_up_as_groups_are_given(tiny: Engine) -> None:
    summary = Summary()
    examples = [Example(i, "the river", "the bank" * (i % 2)) for i in range(20)]
    counts = []
    for group in tiny.run(examples, records_of, summary):
        assert len(group.lines) == len(group.encoded)
        counts.append((summary.num_lines, summary.num_pairs, group.ends_stretch))
    # Every other text_b is empty: no pair, as the original counts.
    assert counts == [(8, 4, False), (16, 8, False), (20, 10, True)]
    assert summary.num_tokens == 10 * 4 + 10 * 7
    assert summary.num_repeated == 9 * 4 + 9 * 7
    assert summary.num_slots >= 4 + 7


def test_lines_that_say_the_same_are_computed_once(tiny: Engine) -> None:
    """A line's vectors depend on the line alone."""
    lines = ["the river", "", "the bank", "", "the river", "", "the river ||| bank"]
    alone = [run(tiny, [line], Summary())[0] for line in lines]
    summary = Summary()
    examples = [parse_line(line, number) for number, line in enumerate(lines)]
    groups = tiny.run(examples, records_of, summary)
    together = [record for group in groups for record in group.encoded]
    assert [record.linex_index for record in together] == [*range(7)]
    for one, other in zip(together[:-1], alone, strict=False):
        assert one == replace(other, linex_index=one.linex_index)
    # [CLS] [SEP] twice more, and [CLS] the river [SEP] once; a pair is another text.
    assert summary.num_repeated == 2 * 2 + 4
    assert summary.num_tokens == 3 * 2 + 3 * 4 + 6
    rows = tiny.model.arithmetic.rows_for(32)
    slots = [rows.num_rows(num_tokens) for num_tokens in (2, 2 * 4, 6)]
    assert summary.num_slots == sum(slots)
    assert summary.padding == pytest.approx(1 - 24 / (sum(slots) + 8))


@pytest.mark.parametrize(
    ("hidden_size", "most_rows", "slots"),
    [
        (128, 2196, 2048),
        (512, 2196, 2048),
        (768, 2196, 1024),
        (128, 1200, 1024),
        (1024, 252, 252),
        (640, 252, 252),
    ],
)
def test_a_full_batch_of_a_narrow_model_has_more_slots(
    hidden_size: int, most_rows: int, slots: int
) -> None:
    """Unless nobody has looked whether products of so many rows keep the bits."""
    kernels = replace(
        arithmetic.in_force("CPU", "float32"),
        most_rows=most_rows,
        most_coarsely_cut_rows=most_rows,
    )
    assert engine.cpu_slots(hidden_size, kernels) == slots


def test_truncated_and_unsplit_lines_are_counted(tiny: Engine) -> None:
    summary = Summary()
    run(tiny, ["river " * 31, "river " * 30, "a |||b", "a || b"], summary)
    assert (summary.num_truncated, summary.num_unsplit) == (1, 1)


def test_what_was_read_before_an_error_is_given(tiny: Engine) -> None:
    def broken() -> Iterator[Example]:
        for number in range(20):
            yield Example(number, "the river", None)
        raise InputError("line 21 is not UTF-8")

    seen: list[int] = []
    groups = tiny.run(broken(), records_of, Summary())
    with pytest.raises(InputError, match="line 21"):
        seen.extend(record.linex_index for group in groups for record in group.encoded)
    assert seen == [*range(16)]  # whole groups


def test_the_graph_is_traced_once(
    tiny: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more(*arguments: object) -> None:
        pytest.fail("the model was traced again")

    monkeypatch.setattr("bert_extract.model.modeling.BertModel.__call__", no_more)
    lines = ["river " * number for number in range(30)] * 3
    assert len(run(tiny, lines, Summary())) == 90


def test_a_layer_asked_for_twice_is_computed_once(tiny_bert: Path) -> None:
    # -1 and 4 are the same layer of five.
    twice = Engine(OpenedModel(options_for(tiny_bert, layers="-1,4,embeddings,-1")))
    (record,) = run(twice, ["the river"], Summary())
    assert record.indexes == (-1, 4, "embeddings", -1)
    assert record.layers[0] is record.layers[1] is record.layers[3]
    assert not np.array_equal(record.layers[0], record.layers[2])


def test_stretches_hold_so_much_and_no_more(tiny: Engine) -> None:
    def stretch_tokens(layers: str, hidden_size: int) -> int:
        config = BertConfig(200, hidden_size, 2, 12, 40, "gelu", 160, 2)
        plan = LayerPlan.of(Options(model_dir="bert", layers=layers), config)
        return engine.stretch_tokens(plan, is_gpu=False)

    assert tiny._stretch_tokens() == 32768
    assert stretch_tokens("all", 768) == 32768
    assert stretch_tokens("all,embeddings", 3072) == 5461
    assert stretch_tokens("all,embeddings", 76_800) == 4096


def test_a_model_without_segments_takes_single_texts(tmp_path: Path) -> None:
    model_dir = write_random_model(tmp_path, type_vocab_size=1)
    single = Engine(OpenedModel(options_for(model_dir, layers="-1")))
    assert len(run(single, ["w1 w2", ""], Summary())) == 2
    # A text_b without a wordpiece is none.
    examples = [Example(i, "w1", "" if i < 9 else "w2") for i in range(20)]
    seen: list[int] = []
    groups = single.run(examples, records_of, Summary())
    with pytest.raises(InputError) as caught:
        seen.extend(record.linex_index for group in groups for record in group.encoded)
    assert str(caught.value) == (
        f"the line with linex_index 9 is a pair, and {model_dir}/bert_config.json says "
        "type_vocab_size 1: the model takes single texts only; put the two texts on "
        "lines of their own, or say --pairs=false if it is one"
    )
    assert seen == [*range(8)]  # whole groups


# -------------------------------------------------------------------------- devices


def test_float32_means_float32(tiny: Engine) -> None:
    assert not tf.config.experimental.tensor_float_32_execution_enabled()
    assert tf.config.threading.get_intra_op_parallelism_threads() == 1


def test_some_cores_can_be_used() -> None:
    assert 1 <= devices.usable_cores() <= 4096


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        ("", {}, None),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/job/task\n", {"job/cpu.max": "200000 100000\n"}, 2.0),
        (
            "0::/job/task\n",
            {"job/task/cpu.max": "max 100000\n", "job/cpu.max": "400000 100000\n"},
            4.0,
        ),
        (
            "5:memory:/m\n4:cpu,cpuacct:/job\n0::/\n",
            {
                "cpu/job/cpu.cfs_quota_us": "50000",
                "cpu/job/cpu.cfs_period_us": "100000",
            },
            0.5,
        ),
        (
            "4:cpu:/docker/0123\n",  # as it is called outside
            {"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            3.0,
        ),
        (
            "1:cpu:/\n",
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            None,
        ),
        ("nonsense\n0::\n", {"cpu.max": "\n"}, None),
    ],
)
def test_a_cgroup_that_limits_the_cpu(
    tmp_path: Path, membership: str, files: dict[str, str], quota: float | None
) -> None:
    (tmp_path / "cgroup").write_text(membership)
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert devices.cgroup_quota(str(tmp_path), str(tmp_path / "cgroup")) == quota


@pytest.mark.parametrize(("quota", "cores"), [(0.5, 1), (1.5, 2), (9.0, 4), (None, 4)])
def test_a_quota_counts_as_cores(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, cores: int
) -> None:
    monkeypatch.setattr(devices, "cgroup_quota", lambda: quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3})
    assert devices.usable_cores() == cores


@pytest.mark.parametrize(
    ("precision", "has_bfloat16", "message"),
    [
        ("float32", False, ""),
        ("bfloat16", True, ""),
        ("bfloat16", False, "this CPU has no instructions for it"),
        ("float16", True, "use --precision=bfloat16"),
        ("float16", False, "use --precision=float32"),
    ],
)
def test_an_arithmetic_that_the_cpu_lacks_is_refused(
    monkeypatch: pytest.MonkeyPatch, precision: str, has_bfloat16: bool, message: str
) -> None:
    monkeypatch.setattr(arithmetic, "has_bfloat16", lambda: has_bfloat16)
    cpu = [Device("/CPU:0", "CPU", "CPU, 2 threads")]
    if not message:
        devices.check_precision(precision, cpu)
        return
    with pytest.raises(OptionsError, match=f"--precision={precision}: .*{message}"):
        devices.check_precision(precision, cpu)


@pytest.mark.parametrize(
    ("flags", "vendor", "is_slow"),
    [
        ("avx512_bf16 avx512_fp16", "GenuineIntel", True),  # AMX is hidden
        (
            "avx512_bf16 avx512_fp16 amx_tile amx_int8 amx_bf16",
            "GenuineIntel",
            False,
        ),
        ("avx512_bf16", "GenuineIntel", False),  # Cooper Lake, which never had AMX
        ("avx512_bf16", "AuthenticAMD", False),
        ("avx512_bf16 avx512_fp16", "AuthenticAMD", False),
    ],
)
def test_bfloat16_that_is_slower_than_float32_is_warned_about(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    flags: str,
    vendor: str,
    is_slow: bool,
) -> None:
    before = "sse4_1 avx avx2 fma avx512f avx512bw avx512vl avx512dq avx512_vnni"
    cpuinfo = {"flags": f"{before} {flags}", "vendor_id": vendor}
    monkeypatch.setattr(arithmetic, "_cpuinfo", lambda *keys: cpuinfo[keys[0]])
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    devices.warn_of_slow_bfloat16()
    assert ("nearly twice as long" in caplog.text) == is_slow
