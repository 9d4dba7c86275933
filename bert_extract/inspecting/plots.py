"""Words and their vectors -> pictures, for a page or a talk.

Whatever is told by a colour is told by a text or a form, too. The colours are those of
Okabe and Ito, which people who confuse red and green can tell apart; the lighter ones
are darker here, so that text in them can be read.
"""

import collections
import contextlib
import importlib.util
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bert_extract.errors import OutputError
from bert_extract.inspecting.contexts import Contexts, WordVectors
from bert_extract.inspecting.words import Place, as_readable

_COLOURS = ("#0072B2", "#C85200", "#007F5C", "#A94F80", "#8A6500", "#000000", "#3F8FC0")
_MARKERS = "osD^vPX"
_GREY, _PALE = "#666666", "#D9D9D9"
_INCHES, _DOTS = (10.0, 5.6), 160  # of a slide, wide as screens are
_PAD_INCHES = 0.12
_FONT = 13
_MARKER_POINTS = 4.5  # what a point takes, from its middle
_MOST_CHARS = 38  # for which there is room beside a line
# Below the lines there is room for the names of so many layers, and for long ones if
# they are few.
_MOST_TICKS, _FEW_TICKS = 14, 8
# A gap that is so much wider than the next parts lines into two colours.
_CLEARLY_WIDER = 2.5
# How files of pictures begin; what is none of these is never replaced.
_MAGIC = {
    ".png": (b"\x89PNG\r\n\x1a\n",),
    ".svg": (b"<?xml", b"<svg"),
    ".pdf": (b"%PDF",),
}


def plot_contexts(contexts: Contexts, picture: str | os.PathLike[str]) -> None:
    """Draws how alike one word's vectors are in different contexts, layer by layer.

    Args:
      contexts: what `word_contexts` found.
      picture: the file to write: .png, .svg or .pdf.

    Raises:
      OutputError: it cannot be written, or would replace what is no picture, or
        matplotlib is not installed.
    """
    figure = _new_figure(picture)
    from matplotlib.ticker import MaxNLocator

    axes = figure.add_subplot()
    similarities = contexts.similarities[:, 0, 1:]  # to the first: [layers, others]
    steps = range(len(contexts.layers))
    groups = _colour_groups(similarities[-1])
    for number, group in enumerate(groups):
        axes.plot(
            steps,
            similarities[:, number],
            color=_COLOURS[group],
            marker=_MARKERS[group],
            linewidth=2.2,
            markersize=6,
        )
    axes.set_xticks(*_ticks(contexts.layers))
    axes.set_xlabel("layer" + _order_of(contexts.layers))
    axes.set_ylabel("cosine similarity")
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    low, high = float(similarities.min()), float(similarities.max())
    margin = 0.06 * max(high - low, 0.02)
    axes.set_ylim(low - margin, min(high + margin, 1.0 + margin))
    axes.set_xlim(-0.15, len(contexts.layers) - 0.85)
    _plain_frame(axes)
    first = contexts.places[0]
    axes.set_title(
        f"The vectors of “{as_readable(contexts.word)}”, compared with that in\n"
        f"“{_line(first)}”",
        loc="left",
        parse_math=False,
        fontsize=_FONT + 3,
    )
    texts = [_line(place) for place in contexts.places[1:]]
    figure.canvas.draw()  # so that it is known how high a line of text is
    _label_ends(axes, similarities[-1], texts, groups)
    _save(figure, picture)


def plot_words(words: WordVectors, picture: str | os.PathLike[str]) -> None:
    """Draws vectors as points, in the two directions in which they differ most (PCA).

    Args:
      words: what `word_vectors` found.
      picture: the file to write: .png, .svg or .pdf.

    Raises:
      OutputError: as in `plot_contexts`.
    """
    figure = _new_figure(picture)
    axes = figure.add_subplot()
    points, shares = principal_components(words.vectors)
    repeated = _repeated(words.places)
    for number, place in enumerate(words.places):
        group = repeated.get(place.word)
        axes.plot(
            *points[number],
            marker="o" if group is None else _MARKERS[group],
            color=_GREY if group is None else _COLOURS[group],
            markersize=5 if group is None else 9,
            linestyle="none",
        )
    axes.margins(0.09)
    axes.set_xlabel(f"first principal component ({shares[0]:.0%} of the variance)")
    axes.set_ylabel(f"second ({shares[1]:.0%})")
    axes.set_title(
        f"Words in context: their vectors of layer {words.layer}, in two dimensions",
        loc="left",
        parse_math=False,
        fontsize=_FONT + 3,
    )
    _plain_frame(axes)
    axes.set_xticks([])
    axes.set_yticks([])
    figure.canvas.draw()
    _label_points(axes, points, *_labels(words.places, repeated))
    _save(figure, picture)


def principal_components(
    vectors: NDArray[np.float32],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Projects vectors on the two directions in which they differ most.

    Args:
      vectors: float32 [num_vectors, size].

    Returns:
      float64 [num_vectors, 2], each direction with the sign that makes its greatest
      number positive; and which share of the variance each direction has.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    points = np.zeros((len(vectors), 2))
    shares = np.zeros(2)
    found = min(2, len(singular))
    points[:, :found] = (left * singular)[:, :found]
    largest = np.abs(points).argmax(axis=0)
    signs = np.sign(points[largest, [0, 1]])
    points *= np.where(signs == 0, 1, signs)
    total = float((singular**2).sum())
    if total:
        shares[:found] = singular[:found] ** 2 / total
    return points, shares


# ------------------------------------------------------------------------------ texts


def _line(place: Place) -> str:
    """The word where it stands, as long as there is room beside a picture."""
    num_before, num_after = len(place.before), len(place.after)
    while True:
        before = place.before[len(place.before) - num_before :]
        after = place.after[:num_after]
        text = " ".join(map(as_readable, [*before, place.word, *after]))
        if len(text) <= _MOST_CHARS or not (before or after):
            break
        # What is farther away goes first.
        if num_before >= num_after:
            num_before -= 1
        else:
            num_after -= 1
    start = "… " if num_before < len(place.before) else ""
    end = " …" if num_after < len(place.after) else ""
    return f"{start}{text}{end}"


def _short(place: Place) -> str:
    """The word with its nearest neighbours: "the river BANK was green"."""
    before, after = place.before[-2:], place.after[:2]
    word = as_readable(place.word).upper()
    return " ".join([*map(as_readable, before), word, *map(as_readable, after)])


def _labels(
    places: Sequence[Place], repeated: Mapping[str, int]
) -> tuple[list[str], list[str]]:
    """What is written beside each word, and in which colour."""
    texts, colours = [], []
    for place in places:
        is_repeated = place.word in repeated
        texts.append(_short(place) if is_repeated else as_readable(place.word))
        colours.append(_COLOURS[repeated[place.word]] if is_repeated else _GREY)
    return texts, colours


def _ticks(layers: Sequence[int | str]) -> tuple[list[int], list[str]]:
    """Which layers are named, and how; the last one always is."""
    step = -(-len(layers) // _MOST_TICKS)
    places = [*range(len(layers) - 1, -1, -step)][::-1]
    names = [str(layers[place]) for place in places]
    if len(layers) > _FEW_TICKS:
        names = ["emb." if name == "embeddings" else name for name in names]
    return places, names


def _order_of(layers: Sequence[int | str]) -> str:
    if len(layers) < 2:
        return ""
    return ", from the model's lowest to its highest"


def _repeated(places: Sequence[Place]) -> dict[str, int]:
    """Numbers the words that stand in several places, those in most places first."""
    counts = collections.Counter(place.word for place in places)
    most = counts.most_common(len(_COLOURS))
    return {word: n for n, (word, count) in enumerate(most) if count > 1}


def _colour_groups(values: NDArray[np.float32]) -> list[int]:
    """Parts numbers at a gap between them: 0 those above it, 1 the others.

    Where no gap is clearly the widest, all of them are 0.
    """
    ordered = np.sort(values)
    gaps = np.diff(ordered)
    if len(gaps) == 0:
        return [0] * len(values)
    widest = int(gaps.argmax())
    others = np.delete(gaps, widest)
    if gaps[widest] <= _CLEARLY_WIDER * others.max(initial=0.0):
        return [0] * len(values)
    return [int(value <= ordered[widest]) for value in values]


# ----------------------------------------------------------------------------- drawing


def _new_figure(picture: str | os.PathLike[str]) -> Any:
    """Makes a figure that no screen shows.

    Raises:
      OutputError: there is no matplotlib, or the picture has no place.
    """
    _check_picture(os.fspath(picture))
    if importlib.util.find_spec("matplotlib") is None:
        raise OutputError(
            f"{os.fspath(picture)}: pictures need the package matplotlib, which is not "
            "installed: pip install matplotlib"
        )
    # Not pyplot, which keeps figures and looks for a screen: callers may use it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=_PAD_INCHES, h_pad=_PAD_INCHES)
    figure = Figure(figsize=_INCHES, dpi=_DOTS, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def _check_picture(picture: str) -> None:
    suffix = os.path.splitext(picture)[1].lower()
    if suffix not in _MAGIC:
        raise OutputError(
            f"{picture}: expected the name of a picture, with {', '.join(_MAGIC)}"
        )
    if not os.path.isdir(os.path.dirname(os.path.realpath(picture))):
        raise OutputError(f"{picture}: expected a file in a folder that is there")
    if os.path.lexists(picture):
        try:
            with open(picture, "rb") as file:
                beginning = file.read(16)
        except OSError as error:
            raise OutputError(
                f"{picture}: would be replaced, and cannot be read: {error.strerror}"
            ) from error
        if beginning and not beginning.startswith(_MAGIC[suffix]):
            raise OutputError(
                f"{picture}: would be replaced, and is no picture: it begins with "
                f"{beginning!r}. Move it away, or give another name"
            )


def _save(figure: Any, picture: str | os.PathLike[str]) -> None:
    path = os.path.realpath(picture)
    suffix = os.path.splitext(path)[1].lower()
    temporary = f"{path}.tmp"
    # Without the time, the same vectors give the same file.
    metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(suffix)
    try:
        figure.savefig(temporary, format=suffix[1:], metadata=metadata)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise OutputError(
            f"{os.fspath(picture)}: cannot be written: {error.strerror}"
        ) from error


def _plain_frame(axes: Any) -> None:
    """Leaves of the frame what is read."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=_FONT)
    axes.xaxis.label.set_size(_FONT)
    axes.yaxis.label.set_size(_FONT)
    axes.grid(axis="y", color=_PALE, linewidth=0.8)
    axes.set_axisbelow(True)


def _label_ends(
    axes: Any, ends: NDArray[np.float32], texts: Sequence[str], groups: Sequence[int]
) -> None:
    """Writes beside the end of each line what it is, without two on one place."""
    low, high = axes.get_ylim()
    height = axes.get_window_extent().height / (_FONT * 1.45 * _DOTS / 72)
    gap = (high - low) / height  # between two lines of text
    places = _spread([float(end) for end in ends], gap, low, high)
    right = axes.get_xlim()[1]
    last = right - 0.15
    for end, place, text, group in zip(ends, places, texts, groups, strict=True):
        axes.annotate(
            text,
            xy=(last, float(end)),
            xytext=(right + 0.018 * (right + 1), place),
            va="center",
            parse_math=False,
            fontsize=_FONT,
            color=_COLOURS[group],
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "relpos": (0.0, 0.5),  # to where the text begins
                "color": _COLOURS[group],
                "linewidth": 0.8,
                "shrinkA": 2,
                "shrinkB": 6,
            },
        )


def _spread(values: list[float], gap: float, low: float, high: float) -> list[float]:
    """Moves numbers apart as little as needed, so that no two are closer than `gap`."""
    order = sorted(range(len(values)), key=values.__getitem__)
    placed: list[list[int]] = []  # neighbours that are moved together

    def centre(block: list[int]) -> float:
        return sum(values[number] for number in block) / len(block)

    for number in order:
        placed.append([number])
        while len(placed) > 1:
            below, above = placed[-2:]
            needed = gap * (len(below) + len(above)) / 2
            if centre(above) - centre(below) >= needed:
                break
            placed[-2:] = [below + above]
    found = [0.0] * len(values)
    for block in placed:
        start = centre(block) - gap * (len(block) - 1) / 2
        for step, number in enumerate(block):
            found[number] = start + gap * step
    shift = max(0.0, low - min(found)) - max(0.0, max(found) - high)
    return [place + shift for place in found]


def _label_points(
    axes: Any,
    points: NDArray[np.float64],
    texts: Sequence[str],
    colours: Sequence[str],
) -> None:
    """Writes beside each point what it is, where there is room; else nothing."""
    from matplotlib.transforms import Bbox

    renderer = axes.figure.canvas.get_renderer()
    dots = axes.transData.transform(points)
    radius = _MARKER_POINTS * _DOTS / 72
    taken = [
        Bbox.from_extents(x - radius, y - radius, x + radius, y + radius)
        for x, y in dots
    ]
    frame = axes.get_window_extent()
    # Those that stand in several places first: they are what the picture is about.
    order = sorted(range(len(texts)), key=lambda n: (colours[n] == _GREY, n))
    for number in order:
        own = [box for place, box in enumerate(taken) if place != number]
        label = axes.annotate(
            texts[number],
            xy=points[number],
            xytext=(0, 0),
            textcoords="offset points",
            parse_math=False,  # "$" is text
            fontsize=_FONT - 1,
            color=colours[number],
        )
        for offset, sides in _SIDES:
            label.set(ha=sides[0], va=sides[1])
            label.set_position(offset)
            box = label.get_window_extent(renderer).padded(2)
            is_inside = frame.x0 <= box.x0 and box.x1 <= frame.x1
            if is_inside and not any(box.overlaps(other) for other in own):
                taken.append(box)
                break
        else:
            label.remove()


# Where a label may stand beside its point, the best place first.
_SIDES = tuple(
    ((dx * distance, dy * distance), sides)
    for distance in (9, 15, 23)
    for dx, dy, sides in (
        (1, 0, ("left", "center")),
        (-1, 0, ("right", "center")),
        (0, 1, ("center", "bottom")),
        (0, -1, ("center", "top")),
        (0.7, 0.7, ("left", "bottom")),
        (0.7, -0.7, ("left", "top")),
        (-0.7, 0.7, ("right", "bottom")),
        (-0.7, -0.7, ("right", "top")),
    )
)
