"""The CPU, TensorFlow's settings -> what keeps a row's bits the same in any company.

float32 sums depend on their order, and a kernel chooses the order by the shape of the
whole matrix. A line's vectors must not depend on the lines beside it, so the model
gives each kind of kernel the shapes with which a row's bits are always the same. Which
these are was measured, kind by kind; `scripts/check_arithmetic.py` measures them on
the machine that it runs on.
"""

import os
import platform
import sys
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from pathlib import Path

from absl import logging

FLOAT32, BFLOAT16, FLOAT16 = "float32", "bfloat16", "float16"

# Turns oneDNN's kernels on or off in TensorFlow, which looks once, when it is imported.
ONEDNN_SWITCH = "TF_ENABLE_ONEDNN_OPTS"

# Other variables that make TensorFlow, oneDNN or CUDA compute other bits.
_VARIABLES = (
    "ONEDNN_CPU_ISA_HINTS",
    "DNNL_CPU_ISA_HINTS",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "DNNL_DEFAULT_FPMATH_MODE",
    "TF_SET_ONEDNN_FPMATH_MODE",
    "TF_XLA_FLAGS",
    "XLA_FLAGS",
    "NVIDIA_TF32_OVERRIDE",
)

# Instruction sets as oneDNN calls them, each with the CPU's flags (of /proc/cpuinfo)
# that it needs besides those of the ones before it.
_INSTRUCTION_SETS = (
    ("SSE41", {"sse4_1"}),
    ("AVX", {"avx"}),
    ("AVX2", {"avx2", "fma"}),
    ("AVX512_CORE", {"avx512f", "avx512bw", "avx512vl", "avx512dq"}),
    ("AVX512_CORE_VNNI", {"avx512_vnni"}),
    ("AVX512_CORE_BF16", {"avx512_bf16"}),
    ("AVX512_CORE_FP16", {"avx512_fp16"}),
    ("AVX512_CORE_AMX", {"amx_tile", "amx_int8", "amx_bf16"}),
    ("AVX512_CORE_AMX_FP16", {"amx_fp16"}),
)
_BF16 = ("AVX512_CORE_BF16", "AVX512_CORE_FP16")
_AMX = ("AVX512_CORE_AMX",)
_AVX512 = ("AVX512_CORE", "AVX512_CORE_VNNI", *_BF16)
# Sets beside that line; as caps of oneDNN's they stand for the one below.
_SIDE_SETS = {
    "AVX2_VNNI": "AVX2",
    "AVX2_VNNI_2": "AVX2",
    "AVX10_1_512": "AVX512_CORE_FP16",
}

# What of a product's inputs and outputs is large: see the first row of the table.
_WIDE = 1024

# Where Linux tells of the caches of the first CPU.
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
# KiB of the first data cache of most CPUs with AVX2: see the rows for it in the table.
_USUAL_CACHE = 32
# Models of these widths have no product that Eigen cuts into pieces longer than 384.
_FINELY_CUT = (128, 256, 384, 768)


@dataclass(frozen=True)
class RowRule:
    """How many rows a dense product must have; what is missing is padded with zeros."""

    multiple: int = 1
    least: int = 1  # a multiple of it

    def num_rows(self, num_rows: int) -> int:
        """The rows of the product that has so many rows to compute."""
        return max(self.least, -(-num_rows // self.multiple) * self.multiple)

    def at_least(self, num_rows: int) -> "RowRule":
        """The same rule, for products of never fewer rows than that."""
        return RowRule(self.multiple, self.num_rows(num_rows))


@dataclass(frozen=True)
class Arithmetic:
    """How this process computes, and what that asks of the model."""

    kernels: str  # for people and fingerprints: "oneDNN, AVX512_CORE_BF16"
    rows: RowRule
    wide_rows: RowRule  # where a product has 1,024 inputs and outputs or more
    # Whether a row of tf.nn.softmax has the same bits wherever it stands. Else it is
    # written out, see `modeling`.
    has_steady_softmax: bool
    # Whether that was measured for this kind. Else `self_check` has to look.
    is_known: bool
    # Whether gelu is computed inside the product before it. Else it is an operation of
    # `encoder_kernel`.
    has_gelu_in_product: bool = True
    # Up to how many rows a product has the same bits, as far as was looked.
    most_rows: int = 1200
    # The same, with models of widths that are not in `_FINELY_CUT`.
    most_coarsely_cut_rows: int = 1200
    # Whether weights are laid out for the kernels once, see `onednn.prepacked_dense`.
    prepacks_weights: bool = False
    # Whether LayerNorm is one operation, see `onednn.layer_norm`.
    has_layer_norm: bool = False
    # Whether `encoder_kernel` is there: lines of any lengths share a batch then.
    has_encoder_kernel: bool = False

    def rows_for(self, hidden_size: int) -> RowRule:
        """The rule for a model of that size."""
        return self.wide_rows if hidden_size >= _WIDE else self.rows

    def most_rows_for(self, hidden_size: int) -> int:
        """Up to how many rows a model of that size may be given.

        One line alone may have more: no other number of lines would have as many.
        """
        is_fine = hidden_size in _FINELY_CUT
        return self.most_rows if is_fine else self.most_coarsely_cut_rows


@dataclass(frozen=True)
class _Kind:
    """A row of the table."""

    has_onednn: bool
    instruction_sets: tuple[str, ...]
    precisions: tuple[str, ...]
    asks: Arithmetic  # but for what is this process's: see `in_force`
    has_usual_cache: bool | None = None  # either, if None


# oneDNN on any CPU with AVX-512.
_AVX512_ASKS = Arithmetic("", RowRule(1, 2), RowRule(1, 128), True, True)
_AMX_ASKS = replace(_AVX512_ASKS, most_rows=4200, most_coarsely_cut_rows=4200)
# Eigen on any with AVX2 and no more.
_AVX2_ASKS = Arithmetic("", RowRule(12, 12), RowRule(12, 12), False, True, False)

# TensorFlow 2.21 on x86-64, one thread an operation. Every row count from 1 to 60 and
# some 170 up to 1,200, for the 15 products of BERTs of 128 to 1,024: bits against those
# of 1,200 rows. "Bad" are the counts that differ.
_KINDS = (
    # Bad: 1; where inputs and outputs are 1,024 or more all counts up to 100, which
    # add in another order. Softmax: all the same. Seen on AMD family 25 model 17 (Zen
    # 4) and family 26 (Zen 5), as they are and capped at AVX512_CORE, and on Intel
    # family 6 model 207 (Emerald Rapids), capped.
    _Kind(True, _AVX512, (FLOAT32,), _AVX512_ASKS),
    # The same in bfloat16, where the CPU multiplies it.
    _Kind(True, _BF16, (BFLOAT16,), _AVX512_ASKS),
    # The same. Seen on Intel family 6 model 207, 275 row counts up to 4,200.
    _Kind(True, _AMX, (FLOAT32,), _AMX_ASKS),
    # AMX's tiles. Bad: 1, and none of the 275 with weights that are packed once, which
    # are asked for the same rows all the same. Packing takes longer than such a
    # product: a layer with unpacked weights took 1.5 to 2 times as long. Without tiles
    # it gains 0 to 4 %, in float32 it loses 7 %.
    _Kind(
        *(True, _AMX, (BFLOAT16,)),
        replace(_AMX_ASKS, prepacks_weights=True),
    ),
    # Eigen's blocks around oneDNN's product, as on Zen 2 and 3 and Intel before
    # Skylake-X. Bad: rows at the end of a block of the kernel, so most counts that
    # are no multiple of 12; of those none. Softmax: the last elements of most tensors.
    # Nothing is computed inside a product. Seen on AMD family 25 model 1 (Zen 3).
    _Kind(False, ("AVX2",), (FLOAT32,), _AVX2_ASKS, has_usual_cache=True),
    # The same with a larger first cache, by which Eigen cuts the inputs of a product
    # (laptops since Ice Lake's kin, and CPUs with AVX-512 that are capped). Of pieces
    # longer than 384, oneDNN's product adds in another order once 1/rows + 1/outputs
    # is below 0.0038. Bad besides: from 288 rows on 1,024 to 3,072 and to 4,096, from
    # 360 on 1,024 to 1,024, from 624 on 512 to 1,536 and to 2,048; of the other 19
    # products none up to 2,400. With 252 rows a layer of 1,024 took 1.1 times as long.
    # Seen on Intel family 6 model 207, capped.
    _Kind(
        *(False, ("AVX2",), (FLOAT32,)),
        replace(_AVX2_ASKS, most_coarsely_cut_rows=252),
        has_usual_cache=False,
    ),
    # The same blocks around AVX-512's product. Bad: 1. Softmax as above.
    # Seen on AMD family 25 model 17, capped at AVX512_CORE and not capped, and on Intel
    # family 6 model 207, capped.
    _Kind(
        *(False, (*_AVX512, *_AMX), (FLOAT32,)),
        Arithmetic("", RowRule(1, 2), RowRule(1, 2), False, True),
    ),
)
# Not in the table: oneDNN at AVX2 (bad: up to 828 rows at every multiple), which
# `choose_kernels` avoids; Eigen at AVX (single counts up to 1,164, whatever the
# multiple); arm64, GPUs and what comes after AMX, which were not seen. Nobody knows
# what a machine asks that is in no row; this satisfies each of them.
_UNKNOWN_ROWS = RowRule(48, 144)


def choose_kernels() -> None:
    """Sets kernels of TensorFlow that keep the promise; none that do are faster.

    To be called before TensorFlow is imported; afterwards it changes nothing. Where the
    variable is set already, it is left alone: `in_force` tells what it leads to.

    TensorFlow's own choice is oneDNN for CPUs with AVX-512 VNNI, AVX VNNI and newer.
    AVX VNNI alone (laptops) would have kernels whose rows depend on their company at
    most row counts. AVX-512 without VNNI would have Eigen's, which took as long as
    oneDNN's (MiniLM, a Zen 4 capped at AVX512_CORE): it has those of its kin.
    """
    if ONEDNN_SWITCH in os.environ or "tensorflow" in sys.modules:
        return
    if platform.machine() in ("x86_64", "AMD64"):
        has_avx512 = instruction_set().startswith("AVX512")
        os.environ[ONEDNN_SWITCH] = "1" if has_avx512 else "0"


def in_force(device_kind: str, precision: str) -> Arithmetic:
    """What this process computes with; TensorFlow is imported for it.

    Args:
      device_kind: "CPU", or what the kind of GPU is called.
      precision: the dtype of the matrix products.
    """
    if device_kind != "CPU":
        # Products of GPUs are chosen by their shape in ways that no row count mends.
        return Arithmetic(device_kind, RowRule(1, 2), RowRule(1, 2), True, False)
    import tensorflow as tf

    from bert_extract.model import encoder_kernel, onednn

    has_onednn, name = _has_onednn(), instruction_set()
    has_usual_cache = first_cache() == _USUAL_CACHE
    kernels = f"{'oneDNN' if has_onednn else 'Eigen'}, {name}"
    if not has_onednn and not has_usual_cache:
        kernels += f", cache of {first_cache() or '?'} KiB"  # cut, and so added, by it
    has_encoder_kernel = encoder_kernel.is_built()
    if not has_encoder_kernel:
        kernels += (
            ", TensorFlow's attention"  # which adds in another order, as its gelu
        )
    # As `devices` sets it, unless TensorFlow had begun before. Eigen divides a product
    # among its threads, and so each row's place in a block changes with their number.
    is_alone = tf.config.threading.get_intra_op_parallelism_threads() == 1
    for kind in _KINDS:
        if (
            kind.has_onednn == has_onednn
            and name in kind.instruction_sets
            and precision in kind.precisions
            and kind.has_usual_cache in (None, has_usual_cache)
        ):
            asks = kind.asks
            return replace(
                asks,
                kernels=kernels,
                is_known=is_alone,
                prepacks_weights=asks.prepacks_weights and onednn.has_prepacked_dense(),
                has_layer_norm=onednn.has_layer_norm(),
                has_encoder_kernel=has_encoder_kernel,
            )
    return Arithmetic(
        *(kernels, _UNKNOWN_ROWS, _UNKNOWN_ROWS, False, False),
        has_encoder_kernel=has_encoder_kernel,
    )


def settings(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that are set and change bits in ways that no table knows."""
    return {name: environment[name] for name in _VARIABLES if environment.get(name)}


def instruction_set() -> str:
    """The instructions that oneDNN may use, by oneDNN's name for them.

    The best that the CPU has, or less where `ONEDNN_MAX_CPU_ISA` says so. On a CPU that
    is not x86-64: what the machine is called.
    """
    flags = cpu_flags()
    found = ""
    cap = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA", "")
    cap = _SIDE_SETS.get(cap.upper(), cap.upper())
    for name, needed in _INSTRUCTION_SETS:
        # AMX comes without AVX512_CORE_FP16 nowhere, AVX512_CORE_BF16 without VNNI
        # nowhere: a set that is missing ends the line.
        if not needed <= flags:
            break
        found = name
        if name == cap:
            break
    return found or platform.machine()


def first_cache() -> int:
    """KiB of the data cache next to the CPU's arithmetic; 0 where Linux tells none."""
    for folder in sorted(_CACHES.glob("index*")):
        try:
            level, kind, size = (
                (folder / name).read_text(encoding="ascii").strip()
                for name in ("level", "type", "size")
            )
        except OSError:
            continue
        if level == "1" and kind in ("Data", "Unified") and size.endswith("K"):
            return int(size[:-1])
    logging.debug("%s: the size of the CPU's first cache is not known", _CACHES)
    return 0


def has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 itself, and may."""
    if cpu_flags() & {"bf16"}:  # arm64
        return True
    names = [name for name, _ in _INSTRUCTION_SETS]
    found = instruction_set()
    return found in names and names.index(found) >= names.index("AVX512_CORE_BF16")


def has_slow_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 itself, and float32 faster.

    Intel's CPUs with AMX do where AMX is hidden from a virtual machine, or capped: by
    AVX-512's instruction products of 1,024 rows made 82 GF/s and in float32 157 (one
    thread, family 6 model 207). AMD's make twice as many in bfloat16.
    """
    is_of_amx_kind = "avx512_fp16" in cpu_flags()
    return is_of_amx_kind and _is_intel() and instruction_set() in _BF16


def cpu_flags() -> Set[str]:
    """The CPU's flags in /proc/cpuinfo; none where there is no such file."""
    return set(_cpuinfo("flags", "Features").split())


def _is_intel() -> bool:
    return _cpuinfo("vendor_id") == "GenuineIntel"


def _cpuinfo(*keys: str) -> str:
    """What /proc/cpuinfo says of the first CPU by one of these names; "" if nothing."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as reader:
            for line in reader:
                key, _, value = line.partition(":")
                if key.strip() in keys:
                    return value.strip()
    except OSError:
        logging.debug("no /proc/cpuinfo: the CPU's instructions are not known")
    return ""


def _has_onednn() -> bool:
    """Whether TensorFlow's operations are oneDNN's in this process."""
    # TensorFlow tells its own tests so, and nobody else.
    from tensorflow.python.util import _pywrap_util_port

    return bool(_pywrap_util_port.IsMklEnabled())
