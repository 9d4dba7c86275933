"""What the rounds gave -> a result as JSON -> a table."""

import os
import platform
import re
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmark_worker import LAYERS, MAX_SEQ_LENGTH, Setting

# What decides how fast a CPU multiplies.
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "bf16")


@dataclass
class Row:
    """A contender in one precision: the setting it runs in, and what came out."""

    contender: str
    precision: str
    title: str
    setting: Setting | None = None
    # Seconds and counts of every round, as the worker said them.
    runs: list[dict[str, Any]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    difference: float | None = None  # to the reference, greatest or 1 - cosine
    # Of the last layer's vectors with the reference's: mean and least.
    cosines: tuple[float, float] | None = None
    losers: list[dict[str, Any]] = field(default_factory=list)  # settings and rates
    failure: str = ""

    def rates(self) -> list[float]:
        """Real tokens/s of each round."""
        return [run["num_tokens"] / run["seconds"] for run in self.runs]


@dataclass
class Measurements:
    """All that was measured, and on what."""

    weights: str  # "minilm", "base" or "tiny"
    config: dict[str, Any]  # the model's sizes
    text: str  # where the text is from
    num_lines: int
    num_tokens: int  # real ones
    sum_squares: int  # of the lines' lengths
    num_rounds: int
    num_threads: int
    rows: list[Row] = field(default_factory=list)
    # What workers said: by precision and library, by precision and kind of batches.
    products: dict[str, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)
    encoder: dict[str, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)


def to_result(measured: Measurements) -> dict[str, Any]:
    """Everything, as JSON."""
    config = measured.config
    ceilings = _ceilings(measured)
    ours = {
        row.precision: statistics.median(row.rates())
        for row in measured.rows
        if row.contender == "ours" and row.runs
    }
    described = describe_machine()
    model = f"{config['num_hidden_layers']} layers of {config['hidden_size']}"
    return {
        "title": f"{measured.weights} ({model}), {measured.num_lines:,} lines, "
        f"{measured.num_tokens:,} tokens, "
        f"{min(len(LAYERS), config['num_hidden_layers'])} layers to JSONL\n"
        f"{described['cpu']}, {measured.num_threads} cores",
        "weights": measured.weights,
        "text": measured.text,
        "num_lines": measured.num_lines,
        "num_tokens": measured.num_tokens,
        "rounds": measured.num_rounds,
        "machine": described,
        "ceilings": ceilings,
        "encoder": _encoder_rates(measured, ceilings, ours),
        "rows": [_to_entry(row, ceilings, ours) for row in measured.rows],
        "raw": {"products": measured.products, "encoder": measured.encoder},
    }


def _ceilings(measured: Measurements) -> dict[str, dict[str, Any]]:
    """The better library's products a second, and what that is in tokens."""
    flop = flop_of(measured.config, measured.num_tokens, measured.sum_squares)
    ceilings = {}
    for precision, by_library in measured.products.items():
        rates = {
            library: statistics.median(p["gflop_per_second"] for p in products)
            for library, products in by_library.items()
        }
        library = max(rates, key=lambda name: rates[name])
        ceilings[precision] = {
            "library": library,
            "gflop_per_second": rates[library],
            "tokens_per_second": rates[library] * 1e9 / flop * measured.num_tokens,
            "gflop_per_second_by_library": rates,
        }
    return ceilings


def _encoder_rates(
    measured: Measurements, ceilings: dict[str, Any], ours: dict[str, float]
) -> dict[str, dict[str, Any]]:
    """Our encoder alone, against the ceiling and against the whole run."""
    entries: dict[str, dict[str, Any]] = {}
    for precision, runs_by_kind in measured.encoder.items():
        rates = {
            kind: statistics.median(run["num_tokens"] / run["seconds"] for run in runs)
            for kind, runs in runs_by_kind.items()
        }
        flop = flop_of(measured.config, 1, MAX_SEQ_LENGTH)
        gflop = rates["full"] * flop / 1e9
        products = ceilings.get(precision, {}).get("gflop_per_second_by_library", {})
        entries[precision] = {
            "tokens_per_second": rates["text"],
            "end_to_end_share": ours[precision] / rates["text"],
            "full_batches_tokens_per_second": rates["full"],
            "full_batches_gflop_per_second": gflop,
            "full_batches_share": {
                library: gflop / rate for library, rate in products.items()
            },
        }
    return entries


def _to_entry(
    row: Row, ceilings: dict[str, Any], ours: dict[str, float]
) -> dict[str, Any]:
    """A row as JSON."""
    rates = row.rates() if not row.failure else []
    median = statistics.median(rates) if rates else None
    ceiling = ceilings.get(row.precision)
    return {
        "contender": row.contender,
        "title": row.title,
        "precision": row.precision,
        "setting": asdict(row.setting) if row.setting else None,
        "tokens_per_second": median
        and {"median": median, "min": min(rates), "max": max(rates)},
        "ours_is_faster_by": median
        and {precision: rate / median for precision, rate in ours.items()},
        "ceiling_share": median and ceiling and median / ceiling["tokens_per_second"],
        "difference": row.difference,
        "cosines": row.cosines,
        "versions": row.versions,
        "other_settings": row.losers,
        "failure": row.failure,
        "runs": row.runs,
    }


def flop_of(config: dict[str, Any], num_tokens: int, sum_squares: int) -> float:
    """Floating-point operations of the matrix products, without any padding.

    Args:
      config: the model's sizes.
      num_tokens: of all lines.
      sum_squares: of the lines' lengths, for the attention.
    """
    hidden_size = config["hidden_size"]
    weights = 4 * hidden_size**2 + 2 * hidden_size * config["intermediate_size"]
    attention = 4 * hidden_size * sum_squares
    return float(config["num_hidden_layers"] * (2 * weights * num_tokens + attention))


def describe_machine() -> dict[str, Any]:
    """What the figures hold for."""
    cpu = platform.processor() or platform.machine()
    flags: list[str] = []
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        first_core = cpuinfo.read_text("utf-8", "replace").split("\n\n")[0]
        fields = dict(re.findall(r"(.*?)\s*: (.*)", first_core))
        cpu = fields.get("model name", cpu)
        if "cpu family" in fields:
            cpu += f" (family {fields['cpu family']} model {fields['model']})"
        present = (fields.get("flags") or fields.get("Features") or "").split()
        flags = [flag for flag in CPU_FLAGS if flag in present]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": cpu,
        "cores": num_cores(),
        "flags": flags,
        "memory_gib": round(memory / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def num_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def to_table(result: dict[str, Any]) -> str:
    """The result for a person."""
    machine = result["machine"]
    numbers = f"{'tok/s':>8} {'min':>8} {'max':>8}   {'float32':>8} {'bfloat16':>8}"
    lines = [
        "",
        result["title"],
        f"{machine['memory_gib']} GiB, {' '.join(machine['flags'])}",
        f"{result['text']}; Python {machine['python']}; {machine['system']}",
        f"real tokens/s, medians of {result['rounds']} rounds; how many times faster "
        "ours is, in float32 and in bfloat16",
        "",
        f"{'':54} {'':26}   {'ours is':>8} {'ours is':>8}     of the",
        f"{'':54} {numbers}    ceiling",
    ]
    for row in result["rows"]:
        lines += _row_lines(row)
    lines.append("")
    for precision, ceiling in result["ceilings"].items():
        products = [
            f"{rate:.0f} GF/s with {library}"
            for library, rate in ceiling["gflop_per_second_by_library"].items()
        ]
        lines.append(
            f"ceiling, {precision}: {', '.join(products)}: "
            f"{ceiling['tokens_per_second']:,.0f} tok/s"
        )
    lines += [_encoder_line(*entry) for entry in result["encoder"].items()]
    foreign = [run["foreign_cores"] for row in result["rows"] for run in row["runs"]]
    if foreign:
        lines.append(
            f"other processes used {statistics.median(foreign):.2f} cores in the "
            f"median run, {max(foreign):.2f} in the worst"
        )
    return "\n".join(lines)


def _encoder_line(precision: str, rates: dict[str, Any]) -> str:
    shares = [
        f"{share:.1%} of {library}'s products"
        for library, share in rates["full_batches_share"].items()
    ]
    full = f"{rates['full_batches_gflop_per_second']:.0f} GF/s"
    return (
        f"our encoder alone, {precision}: {rates['tokens_per_second']:,.0f} tok/s on "
        f"this text, of which the whole run reaches {rates['end_to_end_share']:.0%}; "
        f"full batches: {', '.join([full, *shares])}"
    )


def _row_lines(row: dict[str, Any]) -> list[str]:
    """A row of the table, and the settings that lost below it."""
    rates = row["tokens_per_second"]
    if rates is None:
        return [f"{row['title']:54} not measured: {row['failure'] or 'no round'}"]
    ratios = [row["ours_is_faster_by"].get(p) for p in ("float32", "bfloat16")]
    columns = " ".join(f"{ratio:8.2f}" if ratio else f"{'':8}" for ratio in ratios)
    share = f"{row['ceiling_share']:.0%}" if row["ceiling_share"] else ""
    versions = [f"{name} {version}" for name, version in row["versions"].items()]
    lines = [
        f"{row['title']:54} {rates['median']:8,.0f} {rates['min']:8,.0f} "
        f"{rates['max']:8,.0f}   {columns} {share:>10}",
        f"    {row['setting']['label']}; {', '.join(versions)}",
    ]
    if row["precision"] != "float32" and row["cosines"]:
        mean, least = row["cosines"]
        lines[-1] += f"; last layer's cosine to float32 {mean:.5f}, least {least:.5f}"
    for other in row["other_settings"]:
        title = f"    instead: {other['setting']}"
        if "failure" in other:
            lines.append(f"{title}: {other['failure']}")
        else:
            rate = statistics.median(other["tokens_per_second"])
            lines.append(f"{title:54} {rate:8,.0f}")
    return lines
