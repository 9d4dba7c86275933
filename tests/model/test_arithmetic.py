"""Which kernels compute here, what they ask, and whether they get it."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

import check_arithmetic
from bert_extract import Job, OutputError, jobs, loaded_model
from bert_extract.model import arithmetic, encoder_kernel, self_check
from bert_extract.model.arithmetic import (
    BFLOAT16,
    FLOAT32,
    Arithmetic,
    RowRule,
    in_force,
)
from bert_extract.model.config import BertConfig
from bert_extract.progress import Summary
from support.job_runs import Command, sha256, write_input
from support.make_checkpoints import random_weights
from support.running import TIMEOUT, options_for

ZEN_3 = {"sse4_1", "avx", "avx2", "fma"}
SKYLAKE_X = ZEN_3 | {"avx512f", "avx512bw", "avx512vl", "avx512dq"}
ICE_LAKE = SKYLAKE_X | {"avx512_vnni"}
ZEN_4 = ICE_LAKE | {"avx512_bf16"}
ALDER_LAKE = ZEN_3 | {"avx_vnni"}
SAPPHIRE_RAPIDS = ZEN_4 | {"avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"}
GRANITE_RAPIDS = SAPPHIRE_RAPIDS | {"amx_fp16"}

ONEDNN_OFF = {"TF_ENABLE_ONEDNN_OPTS": "0"}


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the CPU's flags, on a machine whose environment says nothing."""
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)

    def set_flags(flags: set[str], has_onednn: bool = True) -> None:
        monkeypatch.setattr(arithmetic, "cpu_flags", lambda: flags)
        monkeypatch.setattr(arithmetic, "_has_onednn", lambda: has_onednn)

    return set_flags


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ({"sse4_1"}, "SSE41"),
        (ZEN_3, "AVX2"),
        (ALDER_LAKE, "AVX2"),
        (SKYLAKE_X, "AVX512_CORE"),
        (ICE_LAKE, "AVX512_CORE_VNNI"),
        (ZEN_4, "AVX512_CORE_BF16"),
        (SAPPHIRE_RAPIDS, "AVX512_CORE_AMX"),
    ],
)
def test_instruction_sets_have_onednns_names(
    cpu: Any, flags: set[str], name: str
) -> None:
    cpu(flags)
    assert arithmetic.instruction_set() == name


@pytest.mark.parametrize(
    ("variable", "cap", "name"),
    [
        ("ONEDNN_MAX_CPU_ISA", "AVX2", "AVX2"),
        ("ONEDNN_MAX_CPU_ISA", "avx512_core", "AVX512_CORE"),
        ("DNNL_MAX_CPU_ISA", "AVX2_VNNI", "AVX2"),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_AMX", "AVX512_CORE_BF16"),  # not there
        ("ONEDNN_MAX_CPU_ISA", "ALL", "AVX512_CORE_BF16"),
    ],
)
def test_a_cap_of_onednns_counts(
    cpu: Any, monkeypatch: pytest.MonkeyPatch, variable: str, cap: str, name: str
) -> None:
    cpu(ZEN_4)
    monkeypatch.setenv(variable, cap)
    assert arithmetic.instruction_set() == name


def test_bfloat16_is_for_cpus_that_have_it_and_may_use_it(
    cpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu(ICE_LAKE)
    assert not arithmetic.has_bfloat16()
    cpu(ZEN_4)
    assert arithmetic.has_bfloat16()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")
    assert not arithmetic.has_bfloat16()


@pytest.mark.parametrize(
    ("flags", "has_onednn", "precision", "rows", "wide_rows", "has_steady_softmax"),
    [
        (ZEN_4, True, FLOAT32, RowRule(1, 2), RowRule(1, 128), True),
        (ZEN_4, True, BFLOAT16, RowRule(1, 2), RowRule(1, 128), True),
        (SKYLAKE_X, True, FLOAT32, RowRule(1, 2), RowRule(1, 128), True),
        (SAPPHIRE_RAPIDS, True, FLOAT32, RowRule(1, 2), RowRule(1, 128), True),
        (SAPPHIRE_RAPIDS, True, BFLOAT16, RowRule(1, 2), RowRule(1, 128), True),
        (SAPPHIRE_RAPIDS, False, FLOAT32, RowRule(1, 2), RowRule(1, 2), False),
        (SKYLAKE_X, False, FLOAT32, RowRule(1, 2), RowRule(1, 2), False),
        (ZEN_3, False, FLOAT32, RowRule(12, 12), RowRule(12, 12), False),
    ],
)
def test_the_table(
    cpu: Any,
    flags: set[str],
    has_onednn: bool,
    precision: str,
    rows: RowRule,
    wide_rows: RowRule,
    has_steady_softmax: bool,
) -> None:
    cpu(flags, has_onednn)
    found = in_force("CPU", precision)
    assert found.is_known
    assert (found.rows_for(768), found.rows_for(1024)) == (rows, wide_rows)
    assert found.has_steady_softmax == has_steady_softmax
    is_fused = has_onednn or flags != ZEN_3
    assert found.has_gelu_in_product == is_fused


@pytest.mark.parametrize(
    ("flags", "has_onednn", "precision"),
    [
        (ZEN_3, True, FLOAT32),
        ({"sse4_1", "avx"}, False, FLOAT32),
        (GRANITE_RAPIDS, True, BFLOAT16),
        (ZEN_4, False, BFLOAT16),
        ({"asimd", "bf16"}, True, FLOAT32),
    ],
)
def test_what_was_not_measured_is_not_known(
    cpu: Any, flags: set[str], has_onednn: bool, precision: str
) -> None:
    cpu(flags, has_onednn)
    assert not in_force("CPU", precision).is_known
    assert not in_force("NVIDIA H100", precision).is_known


def test_products_that_are_divided_among_threads_are_not_known(
    cpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they are when TensorFlow was used before the extractor was made."""
    cpu(ZEN_3, has_onednn=False)
    monkeypatch.setattr(
        tf.config.threading, "get_intra_op_parallelism_threads", lambda: 0
    )
    found = in_force("CPU", FLOAT32)
    assert not found.is_known
    assert found.rows == RowRule(12, 12)


def test_rows_are_filled_up_to_a_multiple() -> None:
    assert [RowRule(12, 12).num_rows(n) for n in (1, 12, 13)] == [12, 12, 24]
    assert [RowRule(1, 128).num_rows(n) for n in (2, 128, 129)] == [128, 128, 129]
    assert RowRule(12, 12).at_least(128) == RowRule(12, 132)
    assert RowRule(1, 2).at_least(128) == RowRule(1, 128)


@pytest.mark.parametrize(
    ("flags", "chosen"), [(ZEN_3, "0"), (ALDER_LAKE, "0"), (SKYLAKE_X, "1")]
)
def test_the_fastest_kernels_that_keep_the_promise_are_chosen(
    cpu: Any, monkeypatch: pytest.MonkeyPatch, flags: set[str], chosen: str
) -> None:
    cpu(flags)
    monkeypatch.delitem(sys.modules, "tensorflow")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(os, "environ", {})
    arithmetic.choose_kernels()
    assert os.environ == {arithmetic.ONEDNN_SWITCH: chosen}
    os.environ[arithmetic.ONEDNN_SWITCH] = "no one's choice"
    arithmetic.choose_kernels()
    assert os.environ == {arithmetic.ONEDNN_SWITCH: "no one's choice"}


def test_what_the_environment_changes_is_in_the_fingerprint(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One of those that change nothing here: oneDNN reads its own once a process, and
    # would compute all later tests with it.
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    summary = run_job(tiny_bert, tmp_path)
    assert summary.fingerprint["arithmetic_settings"] == {"NVIDIA_TF32_OVERRIDE": "0"}
    assert summary.fingerprint["arithmetic"] == in_force("CPU", FLOAT32).kernels


# ----------------------------------------------------------- machines nobody knows


def run_job(model_dir: Path, folder: Path, **options: Any) -> Summary:
    model = loaded_model.OpenedModel(options_for(model_dir))
    input_file = folder / "in.txt"
    if not input_file.exists():
        write_input(input_file, 20)
    job = Job(input_file=str(input_file), output_file=str(folder / "out"), **options)
    summaries: list[Summary] = []
    jobs.run_job(model, job, summaries)
    return summaries[0]


def unknown(rows: RowRule, has_steady_softmax: bool) -> Arithmetic:
    return Arithmetic("Abacus, 3 rods", rows, rows, has_steady_softmax, False)


def use(monkeypatch: pytest.MonkeyPatch, arithmetic_: Arithmetic) -> None:
    monkeypatch.setattr(arithmetic, "in_force", lambda *_: arithmetic_)


def test_an_unknown_machine_that_keeps_the_bits_says_nothing(
    tiny_bert: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    use(monkeypatch, unknown(RowRule(12, 144), False))
    summary = run_job(tiny_bert, tmp_path, shard="0/2")
    assert summary.same_bytes is True
    assert summary.fingerprint["same_bytes"] is True
    assert summary.arithmetic == "Abacus, 3 rods"
    assert "depend on" not in caplog.text


@pytest.mark.parametrize("options", [{"shard": "0/2"}, {"resume": True}], ids=str)
def test_an_unknown_machine_that_does_not_says_what_it_can_promise(
    tiny_bert: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    options: dict[str, Any],
) -> None:
    use(monkeypatch, unknown(RowRule(1, 2), True))
    monkeypatch.setattr(self_check, "keeps_bits", lambda *_: False)
    summary = run_job(tiny_bert, tmp_path, **options)
    assert summary.same_bytes is False
    run_file = json.loads((tmp_path / "out.run.json").read_bytes())
    assert run_file["fingerprint"]["same_bytes"] is False
    said = caplog.text
    (flag,) = options
    assert "Abacus, 3 rods, float32: on this machine the last digits" in said
    assert f"--{flag}: no line is lost or doubled" in said
    assert "within 2e-5" in said


@pytest.mark.parametrize(
    ("caches", "size"),
    [
        ([("1", "Data", "48K"), ("1", "Instruction", "32K")], 48),
        ([("1", "Instruction", "64K"), ("1", "Data", "32K")], 32),
        ([("2", "Unified", "512K")], 0),
        ([], 0),
    ],
)
def test_the_first_cache_is_the_one_for_data(
    caches: list[tuple[str, str, str]],
    size: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number, files in enumerate(caches):
        folder = tmp_path / f"index{number}"
        folder.mkdir()
        for name, text in zip(("level", "type", "size"), files, strict=True):
            (folder / name).write_text(text + "\n")
    monkeypatch.setattr(arithmetic, "_CACHES", tmp_path)
    assert arithmetic.first_cache() == size


def test_the_cache_by_which_eigen_cuts_is_in_the_name_of_its_kernels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else another machine would go on with other bits."""
    monkeypatch.setattr(arithmetic, "_has_onednn", lambda: False)
    monkeypatch.setattr(arithmetic, "instruction_set", lambda: "AVX2")
    names, most_rows = [], []
    for size in (32, 48, 0):
        monkeypatch.setattr(arithmetic, "first_cache", lambda size=size: size)
        found = in_force("CPU", FLOAT32)
        names.append(found.kernels)
        most_rows.append([found.most_rows_for(width) for width in (384, 512, 1024)])
    assert names == [
        f"Eigen, AVX2{WITHOUT_COMPILER}",
        f"Eigen, AVX2, cache of 48 KiB{WITHOUT_COMPILER}",
        f"Eigen, AVX2, cache of ? KiB{WITHOUT_COMPILER}",
    ]
    assert most_rows == [[1200] * 3, [1200, 252, 252], [1200, 252, 252]]


def random_model(hidden_size: int) -> tuple[BertConfig, dict[str, tf.Tensor]]:
    config = BertConfig(50, hidden_size, 1, 4, 2 * hidden_size, "gelu", 64, 2)
    weights = random_weights(config, seed=3)
    return config, {name: tf.constant(value) for name, value in weights.items()}


def test_the_check_sees_a_layer_that_depends_on_its_company(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each line of this one moves with the number of lines."""

    def crowded(*_: object) -> Any:
        def graph(ids: tf.Tensor, mask: tf.Tensor, types: tf.Tensor) -> Any:
            crowd = tf.cast(tf.shape(ids)[0], tf.float32) * 1e-7
            return [tf.cast(ids, tf.float32)[..., tf.newaxis] + 1 + crowd]

        return graph

    config, weights = random_model(32)
    wanted = unknown(RowRule(12, 144), False)
    assert self_check.keeps_bits(config, weights, FLOAT32, wanted, "/CPU:0")
    monkeypatch.setattr(self_check, "layer_graph", crowded)
    assert not self_check.keeps_bits(config, weights, FLOAT32, wanted, "/CPU:0")


def test_the_script_finds_what_the_table_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check_arithmetic, "LENGTHS", (3, 17, 20))
    assert check_arithmetic.main(["--hidden_sizes=128"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{in_force('CPU', FLOAT32).kernels}, float32: in the table")
    assert "hidden_size 128: the tool's way: all the same" in said
    assert "  the least that does: RowRule(multiple=" in said


# --------------------------------------------------------- every kind that is here


# What the names of kernels end with where the operations in C are missing.
WITHOUT_COMPILER = "" if encoder_kernel.is_built() else ", TensorFlow's attention"


@dataclass(frozen=True)
class Kind:
    """A kind of arithmetic, and how a process gets it."""

    environment: Mapping[str, str]
    kernels: str  # as `arithmetic` calls them
    isa: str  # as oneDNN calls it, in its own log
    flag: str  # of the CPU, without which it is not to be had
    precisions: Sequence[str] = (FLOAT32,)


CACHE = arithmetic.first_cache()
EIGENS = "" if CACHE == 32 else f", cache of {CACHE} KiB"
KINDS = {
    "as chosen": Kind({}, "", "", "", (FLOAT32, BFLOAT16)),
    "AVX2": Kind(
        {**ONEDNN_OFF, "ONEDNN_MAX_CPU_ISA": "AVX2"},
        f"Eigen, AVX2{EIGENS}",
        "Intel AVX2",
        "avx2",
    ),
    "AVX-512 with bfloat16": Kind(
        {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"},
        "oneDNN, AVX512_CORE_BF16",
        "Intel AVX-512 with Intel DL Boost and bfloat16 support",
        "avx512_bf16",
        (FLOAT32, BFLOAT16),
    ),
    "AVX-512": Kind(
        {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
        "oneDNN, AVX512_CORE",
        "Intel AVX-512 with AVX512BW, AVX512VL, and AVX512DQ extensions",
        "avx512dq",
    ),
    "AVX-512, Eigen": Kind(
        {**ONEDNN_OFF, "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
        f"Eigen, AVX512_CORE{EIGENS}",
        "Intel AVX-512 with AVX512BW, AVX512VL, and AVX512DQ extensions",
        "avx512dq",
    ),
}


def check_kind(kind: Kind, folder: Path, **wanted: Any) -> None:
    """Runs the driver under a kind of arithmetic, and holds it to it."""
    if kind.flag and kind.flag not in arithmetic.cpu_flags():
        pytest.skip(f"this CPU has no {kind.flag}")
    precisions = [
        precision
        for precision in kind.precisions
        if precision == FLOAT32 or arithmetic.has_bfloat16()
    ]
    log_file = folder / "stdout"
    with open(log_file, "wb") as stdout:
        completed = subprocess.run(
            [
                sys.executable,
                str(Path(__file__).parents[1] / "support" / "arithmetic_driver.py"),
                json.dumps({**wanted, "precisions": precisions}),
            ],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(sys.path),
                **kind.environment,
                "ONEDNN_VERBOSE": "1",
            },
            stdout=stdout,
            stderr=subprocess.PIPE,
            timeout=10 * TIMEOUT,
            check=False,
        )
    assert completed.returncode == 0, completed.stderr.decode()[-2000:]
    log = log_file.read_text(encoding="utf-8", errors="replace")
    found = json.loads(log.rsplit("\n", 2)[1])
    assert found["differences"] == []
    assert all(found["is_known"].values()), found
    if kind.kernels:
        kernels = f"{kind.kernels}{WITHOUT_COMPILER}"
        assert found["kernels"] == dict.fromkeys(precisions, kernels)
        assert f"info,cpu,isa:{kind.isa}\n" in log
        # oneDNN's operations are primitives; Eigen only calls its product, in blocks.
        has_onednn = ",cpu,matmul," in log or ",cpu,inner_product," in log
        assert has_onednn == kind.kernels.startswith("oneDNN")


LENGTHS = (2, 3, 4, 5, 7, 8, 12, 17, 31, 33, 64, 101)


@pytest.mark.parametrize("name", ["as chosen", "AVX2"])
def test_no_bit_depends_on_the_company(name: str, tmp_path: Path) -> None:
    check_kind(KINDS[name], tmp_path, hidden_sizes=[384], lengths=LENGTHS)


def test_no_bit_of_a_wide_model_depends_on_how_many_lines_share_its_batches(
    tmp_path: Path,
) -> None:
    """Under AVX2, 312 rows were added in another order than 104."""
    check_kind(KINDS["AVX2"], tmp_path, hidden_sizes=[1024], lengths=[101] * 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_no_bit_of_any_published_width_depends_on_the_company(
    name: str, tmp_path: Path
) -> None:
    widths = [128, 256, 384, 512, 768, 1024]
    lengths = [2, 3, 5, 8, 13, 20, 33, 51, 64, 101, 127]
    check_kind(KINDS[name], tmp_path, hidden_sizes=widths, lengths=lengths)


@pytest.mark.slow
def test_whole_jobs_are_the_same_bytes_under_avx2(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards, a run killed and resumed; natively other tests see to it."""
    for name, value in KINDS["AVX2"].environment.items():
        monkeypatch.setenv(name, value)
    command = Command(tiny_bert)
    input_file = write_input(tmp_path / "in.txt", 4000)
    whole, resumed = tmp_path / "whole.jsonl", tmp_path / "resumed.jsonl"
    assert not command.run(input_file=input_file, output_file=whole).returncode
    run = json.loads((tmp_path / "whole.jsonl.run.json").read_bytes())
    kernels = f"{KINDS['AVX2'].kernels}{WITHOUT_COMPILER}"
    assert run["fingerprint"]["arithmetic"] == kernels
    shards = [tmp_path / f"{number}.jsonl" for number in range(3)]
    for number, shard in enumerate(shards):
        flags: dict[str, Any] = {"shard": f"{number}/3", "num_threads": 1 + number % 2}
        assert not command.run(
            input_file=input_file, output_file=shard, **flags
        ).returncode
    assert sha256(*shards) == sha256(whole)
    killed = command.run(
        crash={"name": "flush", "number": 3},
        input_file=input_file,
        output_file=resumed,
    )
    assert killed.returncode == -9
    completed = command.run(
        input_file=input_file, output_file=resumed, resume="true", batch_size=1
    )
    assert not completed.returncode
    assert sha256(resumed) == sha256(whole)


def test_a_resume_with_other_kernels_is_refused(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment changes no byte behind anybody's back."""
    here = in_force("CPU", FLOAT32)
    with monkeypatch.context() as elsewhere:
        use(elsewhere, replace(here, kernels="Eigen, of another machine"))
        run_job(tiny_bert, tmp_path)
    with pytest.raises(OutputError) as caught:
        run_job(tiny_bert, tmp_path, resume=True)
    assert (
        "the kind of kernels that compute was Eigen, of another machine, and is now "
        f"{here.kernels}\n" in str(caught.value)
    )
