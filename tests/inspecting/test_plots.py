"""The pictures: what stands where, no label on another, nothing lost on the disk."""

import dataclasses
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.text import Text

import make_pictures
from bert_extract import OutputError
from bert_extract.inspecting import plots
from bert_extract.inspecting.contexts import Contexts, WordVectors, word_contexts
from bert_extract.inspecting.plots import (
    plot_contexts,
    plot_words,
    principal_components,
)
from bert_extract.inspecting.words import Place


def place(word: str, number: int) -> Place:
    return Place(word, number, 1, ("we", "sat", "on", "the"), ("of", f"no{number}"))


def some_words(num_places: int = 30) -> WordVectors:
    """A third of them the same word; "$" and long ones among the rest."""
    rng = np.random.default_rng(3)
    words = itertools.cycle(["bank", "$", "river", "bank", "x" * 99, "\x1b[1m"])
    places = tuple(place(next(words), number) for number in range(num_places))
    vectors = rng.normal(size=(num_places, 8)).astype(np.float32)
    return WordVectors(-1, places, vectors)


def some_contexts(similarities: list[list[float]]) -> Contexts:
    """Places whose similarities to the first one are these, layer by layer."""
    num_places = len(similarities[0]) + 1
    matrix = np.ones((len(similarities), num_places, num_places), np.float32)
    matrix[:, 0, 1:] = similarities
    places = tuple(place("ba$nk$", number) for number in range(num_places))
    return Contexts("ba$nk$", (*range(len(similarities)),), places, matrix)


@pytest.fixture(autouse=True)
def few_dots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a picture be drawn in a quarter of the time; all stands where it stood."""
    monkeypatch.setattr(plots, "_DOTS", 80)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The figures that were saved."""
    saved: list[Any] = []
    save = plots._save

    def keep(figure: Any, picture: Any) -> None:
        saved.append(figure)
        save(figure, picture)

    monkeypatch.setattr(plots, "_save", keep)
    yield saved
    # Whoever draws with pyplot has no figure of ours among theirs.
    assert pyplot.get_fignums() == []


def labels_of(figure: Any) -> list[Any]:
    (axes,) = figure.axes
    return [text for text in axes.texts if text.get_text()]


def assert_apart(figure: Any) -> None:
    renderer = figure.canvas.get_renderer()
    # Not the annotation's own extent, which has its arrow in it.
    boxes = [Text.get_window_extent(label, renderer) for label in labels_of(figure)]
    page = figure.bbox
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    assert all(page.x0 <= box.x0 and box.x1 <= page.x1 + 1 for box in boxes)


def test_points_are_what_numpy_makes_of_the_covariance() -> None:
    vectors = some_words().vectors
    points, shares = principal_components(vectors)
    values, directions = np.linalg.eigh(np.cov(vectors.T.astype(np.float64)))
    expected = (vectors - vectors.mean(axis=0)) @ directions[:, [-1, -2]]
    assert np.abs(points) == pytest.approx(np.abs(expected), abs=1e-5)
    assert shares == pytest.approx(values[[-1, -2]] / values.sum(), abs=1e-6)
    assert (points[np.abs(points).argmax(axis=0), [0, 1]] > 0).all()


def test_vectors_of_one_value_and_vectors_that_are_the_same() -> None:
    points, shares = principal_components(np.array([[1], [3], [8]], np.float32))
    assert points == pytest.approx(np.array([[-3, 0], [-1, 0], [4, 0]]), abs=1e-12)
    assert shares.tolist() == [1, 0]
    points, shares = principal_components(np.ones((4, 3), np.float32))
    assert not points.any()
    assert shares.tolist() == [0, 0]


def test_labels_of_points_are_apart(tmp_path: Path, figures: list[Any]) -> None:
    plot_words(some_words(), tmp_path / "words.png")
    (figure,) = figures
    assert_apart(figure)
    texts = {label.get_text() for label in labels_of(figure)}
    assert "on the BANK of no0" in texts
    assert len(texts) > 15
    assert all(text.isprintable() for text in texts)
    # Every point is there, whether it has a label or not.
    (axes,) = figure.axes
    assert len(axes.lines) == 30


def test_a_word_in_several_places_has_a_colour_and_a_form_of_its_own(
    tmp_path: Path, figures: list[Any]
) -> None:
    words = some_words()
    plot_words(words, tmp_path / "words.png")
    forms: dict[str, set[tuple[str, str]]] = {}
    for line, each in zip(figures[0].axes[0].lines, words.places, strict=True):
        forms.setdefault(each.word, set()).add((line.get_color(), line.get_marker()))
    assert {len(found) for found in forms.values()} == {1}
    assert len(set(map(frozenset, forms.values()))) == len(forms)


def test_more_words_than_colours_are_grey(tmp_path: Path, figures: list[Any]) -> None:
    words = some_words(20)
    doubled = [place(f"w{number // 2}", number) for number in range(20)]
    plot_words(dataclasses.replace(words, places=tuple(doubled)), tmp_path / "a.png")
    colours = [line.get_color() for line in figures[0].axes[0].lines]
    assert colours.count("#666666") == 20 - 2 * 7
    assert len(set(colours)) == 8


@pytest.mark.parametrize(
    "last",
    [
        [0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9],
        [0.5, 0.51, 0.9, 0.91, 0.92, 0.1, 0.11],
        [1.0] * 12,
        [0.3],
        [-0.5, 0.0, 0.5],
    ],
)
def test_labels_of_lines_are_apart(
    last: list[float], tmp_path: Path, figures: list[Any]
) -> None:
    plot_contexts(some_contexts([[1.0] * len(last), last]), tmp_path / "a.png")
    assert_apart(figures[0])
    assert len(labels_of(figures[0])) == len(last)


def test_a_line_has_the_colour_of_its_side_of_the_widest_gap(
    tmp_path: Path, figures: list[Any]
) -> None:
    last = [0.9, 0.5, 0.88, 0.52]
    plot_contexts(some_contexts([[1.0] * 4, last]), tmp_path / "a.png")
    colours = [line.get_color() for line in figures[0].axes[0].lines]
    assert colours[0] == colours[2] != colours[1] == colours[3]


def test_lines_without_a_gap_have_one_colour(
    tmp_path: Path, figures: list[Any]
) -> None:
    last = [0.9, 0.86, 0.8, 0.75, 0.71]
    plot_contexts(some_contexts([[1.0] * 5, last]), tmp_path / "a.png")
    assert len({line.get_color() for line in figures[0].axes[0].lines}) == 1


@pytest.mark.parametrize("num_layers", [2, 7, 13, 25])
def test_names_of_layers_are_apart_beside_long_labels(
    num_layers: int, tmp_path: Path, figures: list[Any]
) -> None:
    contexts = some_contexts([[0.9, 0.8, 0.3]] * num_layers)
    long_words = ("internationally", "recognised", "characteristics", "of", "the")
    places = [
        dataclasses.replace(each, before=long_words, after=long_words)
        for each in contexts.places
    ]
    layers = ("embeddings", *range(num_layers - 1))
    contexts = dataclasses.replace(contexts, places=tuple(places), layers=layers)
    plot_contexts(contexts, tmp_path / "a.png")
    (axes,) = figures[0].axes
    renderer = figures[0].canvas.get_renderer()
    names = axes.get_xticklabels()
    boxes = [name.get_window_extent(renderer) for name in names]
    assert not any(one.overlaps(other) for one, other in itertools.pairwise(boxes))
    assert names[-1].get_text() == str(num_layers - 2)
    assert_apart(figures[0])
    assert "… the ba$nk$ internationally recognised …" in {
        label.get_text() for label in labels_of(figures[0])
    }


def test_one_layer_is_drawn_too(tmp_path: Path) -> None:
    plot_contexts(some_contexts([[0.5, 0.6]]), tmp_path / "a.png")


@pytest.mark.parametrize(
    ("suffix", "beginning"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_a_picture_is_made_again_the_same(
    suffix: str, beginning: bytes, tmp_path: Path
) -> None:
    picture = tmp_path / f"a.{suffix}"
    plot_words(some_words(4), picture)
    content = picture.read_bytes()
    assert content.startswith(beginning)
    plot_words(some_words(4), picture)
    assert len(picture.read_bytes()) == len(content)
    assert [path.name for path in tmp_path.iterdir()] == [picture.name]


def test_nothing_is_replaced_that_is_no_picture(tmp_path: Path) -> None:
    mine = tmp_path / "mine.png"
    mine.write_text("my notes")
    with pytest.raises(OutputError, match="is no picture: it begins with b'my notes'"):
        plot_words(some_words(), mine)
    assert mine.read_text() == "my notes"
    for name, expected in (
        ("picture.jpeg", r"expected the name of a picture, with \.png, \.svg, \.pdf"),
        ("nowhere/a.png", "expected a file in a folder that is there"),
    ):
        with pytest.raises(OutputError, match=expected):
            plot_words(some_words(), tmp_path / name)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OutputError, match="cannot be read: Is a directory"):
        plot_words(some_words(), tmp_path / "folder.png")


def test_without_matplotlib_it_is_said_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(OutputError, match="pip install matplotlib"):
        plot_words(some_words(), tmp_path / "a.png")


@pytest.mark.slow
def test_the_pictures_of_the_page_show_the_two_senses_of_a_word(
    minilm_dir: Path, tmp_path: Path
) -> None:
    features = tmp_path / "contexts.jsonl"
    make_pictures.extract(minilm_dir, features)
    found = word_contexts(features, "bank")
    assert found.layers == ("embeddings", 0, 1, 2, 3, 4, 5)
    assert found.similarities[-1, 0].tolist() == pytest.approx(
        [1, 0.825, 0.902, 0.830, 0.918, 0.801, 0.925, 0.808], abs=0.002
    )
    make_pictures.draw(features, tmp_path)
    for name in ("contexts.png", "words.png"):
        assert 10_000 < (tmp_path / name).stat().st_size < 100_000
