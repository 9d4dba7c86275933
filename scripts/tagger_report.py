"""Runs of train_tagger.py -> the table beside the paper's, its order, a picture."""

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bert_extract import BertExtractError

# Devlin et al., 2019, table 7: CoNLL-2003 named entities, BERT-Base, F1 on the dev
# part, with a BiLSTM of two layers. Fine-tuning has 96.4 there.
PAPER = {
    "embeddings": 91.0,
    "second-to-last layer": 95.6,
    "last layer": 94.9,
    "weighted sum of the last four": 95.9,
    "concat of the last four": 96.1,
    "weighted sum of all layers": 95.5,
}
_COLOURS = {"linear": "#4a74a5", "BiLSTM": "#d9730d"}
_PAPER_COLOUR = "#555555"


@dataclass(frozen=True)
class Run:
    """One tagger, trained once and tested once."""

    tagger: str
    row: str
    seed: int
    accuracy: float  # of the test words
    shares: list[float] | None = None  # what each layer has of a weighted sum

    @property
    def place(self) -> tuple[str, str, int]:
        """Which run it is."""
        return self.tagger, self.row, self.seed


@dataclass(frozen=True)
class Cell:
    """What the seeds gave, in percent."""

    mean: float
    spread: float  # the standard deviation; 0 with one seed

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.spread:.2f}"


def to_cells(runs: Sequence[Run]) -> dict[str, dict[str, Cell]]:
    """Runs -> by tagger, by row."""
    cells: dict[str, dict[str, Cell]] = {}
    for tagger in dict.fromkeys(run.tagger for run in runs):
        for row in PAPER:
            found = [
                100 * run.accuracy
                for run in runs
                if (run.tagger, run.row) == (tagger, row)
            ]
            spread = statistics.stdev(found) if len(found) > 1 else 0.0
            cell = Cell(statistics.mean(found), spread)
            cells.setdefault(tagger, {})[row] = cell
    return cells


def to_report(runs: Sequence[Run]) -> str:
    """The table in Markdown, the order of the rows, and the learned weights."""
    cells = to_cells(runs)
    num_seeds = len({run.seed for run in runs})
    lines = [
        "",
        f"Accuracy on the test words in percent, mean and standard deviation of "
        f"{num_seeds} seeds:",
        "",
        f"| | {' | '.join(cells)} | the paper: entities, BERT-Base, F1 |",
        f"|---|{'---|' * len(cells)}---|",
    ]
    for row, theirs in PAPER.items():
        ours = " | ".join(str(by_row[row]) for by_row in cells.values())
        lines.append(f"| {row} | {ours} | {theirs} |")
    lines.append("")
    for tagger, by_row in cells.items():
        lines += _order_lines(tagger, by_row)
    lines += _share_lines(runs)
    return "\n".join(lines)


def _order_lines(tagger: str, by_row: dict[str, Cell]) -> list[str]:
    """Which pairs of rows stand the other way round than in the paper."""
    pairs = list(itertools.combinations(sorted(PAPER, key=lambda r: -PAPER[r]), 2))
    others = []
    for above, below in pairs:
        lead = by_row[below].mean - by_row[above].mean
        if lead >= 0:
            spread = max(by_row[above].spread, by_row[below].spread)
            doubt = "" if lead > spread else ", within the spread"
            others.append(f"    {below} above {above}: {lead:.2f}{doubt}")
    num_same = len(pairs) - len(others)
    head = f"{tagger}: the paper's order in {num_same} of {len(pairs)} pairs of rows"
    return [f"{head}; not so:", *others] if others else [head]


def _share_lines(runs: Sequence[Run]) -> list[str]:
    lines = []
    for (tagger, row), shares in mean_shares(runs).items():
        numbers = " ".join(f"{share:.2f}" for share in shares)
        lines.append(f"{tagger}, {row}, learned, lowest layer first: {numbers}")
    return lines


def mean_shares(runs: Sequence[Run]) -> dict[tuple[str, str], list[float]]:
    """What each layer has of the weighted sums, by tagger and row."""
    found: dict[tuple[str, str], list[list[float]]] = {}
    for run in runs:
        if run.shares is not None:
            found.setdefault((run.tagger, run.row), []).append(run.shares)
    return {
        place: [statistics.mean(of_layer) for of_layer in zip(*shares, strict=True)]
        for place, shares in found.items()
    }


# ---------------------------------------------------------------------- the picture


def draw_picture(runs: Sequence[Run], picture_file: str, title: str) -> None:
    """Draws the paper's column, ours, and which layers the learned sum takes.

    Args:
      runs: all of the table.
      picture_file: its suffix says the format.
      title: of our column: on what it was measured.

    Raises:
      BertExtractError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise BertExtractError(
            f"--picture={picture_file} needs matplotlib: pip install matplotlib"
        ) from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (paper, ours, layers) = pyplot.subplots(
        1, 3, figsize=(12, 4.2), width_ratios=(1, 1.25, 1)
    )
    names = list(PAPER)[::-1]  # the first one on top
    paper.scatter([PAPER[name] for name in names], names, color=_PAPER_COLOUR, s=40)
    for place, name in enumerate(names):
        _label(paper, PAPER[name], place, f"{PAPER[name]:.1f}", _PAPER_COLOUR)
    paper.set_title(
        "The BERT paper: named entities,\nBERT-Base, BiLSTM, F1", loc="left"
    )
    _draw_ours(ours, to_cells(runs), names)
    ours.set_title(title, loc="left")
    _draw_shares(layers, mean_shares(runs))
    layers.set_title("What the weighted sum of all\nlayers learned to take", loc="left")
    for axes in (paper, ours):
        axes.grid(color="#e6e6e6")
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        axes.set_ylim(-0.6, len(names) - 0.4)
        axes.margins(x=0.15)
        axes.locator_params(axis="x", integer=True, nbins=6)
    for axes in (paper, ours, layers):
        axes.title.set_fontsize(10)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(picture_file, dpi=150)
    pyplot.close(figure)


def _draw_ours(
    axes: Any, cells: dict[str, dict[str, Cell]], names: Sequence[str]
) -> None:
    for number, (tagger, by_row) in enumerate(cells.items()):
        colour = _COLOURS.get(tagger)
        height = 0.14 * (1 - 2 * number)
        means = [by_row[name].mean for name in names]
        places = [place + height for place in range(len(names))]
        axes.errorbar(
            means,
            places,
            xerr=[by_row[name].spread for name in names],
            fmt="o",
            color=colour,
            capsize=3,
            label=tagger,
        )
        for mean, place in zip(means, places, strict=True):
            _label(axes, mean, place, f"{mean:.1f}", colour)
    axes.set_yticks(range(len(names)), [""] * len(names))
    axes.legend(loc="lower left", frameon=False)


def _draw_shares(axes: Any, shares: dict[tuple[str, str], list[float]]) -> None:
    found = {
        tagger: values
        for (tagger, row), values in shares.items()
        if row == "weighted sum of all layers"
    }
    width = 0.8 / len(found)
    for number, (tagger, values) in enumerate(found.items()):
        places = [
            i + (number - (len(found) - 1) / 2) * width for i in range(len(values))
        ]
        axes.bar(places, values, width, color=_COLOURS.get(tagger), label=tagger)
    num_layers = len(next(iter(found.values())))
    axes.axhline(1 / num_layers, color="#555555", linestyle=":", linewidth=1)
    axes.annotate(
        "equal shares", (num_layers - 0.5, 1 / num_layers), ha="right", va="bottom"
    ).set_fontsize(8)
    axes.set_xticks(range(num_layers))
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.set_xlabel("encoder layer")


def _label(axes: Any, x: float, y: float, text: str, colour: str | None) -> None:
    axes.annotate(
        text,
        (x, y),
        xytext=(9, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        color=colour,
    )
