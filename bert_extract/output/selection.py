"""What is asked for of a file of records: some of its layers, some of its lines."""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass

from bert_extract.errors import ArgumentTypeError, InputError, as_shown
from bert_extract.output.record import Record

Layers = int | str | Sequence[int | str]


@dataclass(frozen=True, slots=True)
class Selection:
    """Some layers, in this order, and some lines; None stands for all of them."""

    layers: tuple[int | str, ...] | None = None
    lines: range | None = None  # by linex_index, ascending

    def positions_of(self, layer_names: tuple[int | str, ...]) -> list[int]:
        """Finds where in a record the layers stand.

        Args:
          layer_names: the record's. The first of two that are the same is taken.

        Returns:
          A number below len(layer_names) for each layer that is asked for.

        Raises:
          InputError: there is no such layer.
        """
        if self.layers is None:
            return list(range(len(layer_names)))
        for layer in self.layers:
            if layer not in layer_names:
                raise InputError(
                    f"expected the layer {as_shown(layer)}, found the layers "
                    f"{', '.join(map(as_shown, layer_names))}, each of which can be "
                    "asked for as it is called here"
                )
        return [layer_names.index(layer) for layer in self.layers]

    def of_record(self, record: Record) -> Record:
        """Drops the layers that are not asked for.

        Raises:
          InputError: one that is asked for is not there.
        """
        # JSON does not tell which layers a record without entries has.
        if self.layers is None or not record.indexes:
            return record
        layers = tuple(
            record.layers[position] for position in self.positions_of(record.indexes)
        )
        return dataclasses.replace(record, indexes=self.layers, layers=layers)

    def has_line(self, linex_index: int) -> bool:
        """Whether a line is asked for."""
        return self.lines is None or linex_index in self.lines

    def is_past(self, linex_index: int) -> bool:
        """Whether no line from this one on is asked for."""
        return self.lines is not None and (
            not self.lines or linex_index > self.lines[-1]
        )


EVERYTHING = Selection()


def make_selection(layers: Layers | None, lines: range | None) -> Selection:
    """Takes the arguments of `read_features`.

    Raises:
      ArgumentTypeError: they are no layers, or no range.
    """
    if lines is not None and not isinstance(lines, range):
        raise ArgumentTypeError(
            f"lines must be a range, as in range(100, 200); found {lines!r} "
            f"({type(lines).__name__})"
        )
    if lines is not None and lines.step < 0:
        lines = lines[::-1]
    if isinstance(layers, str):
        layers = [_from_text(name.strip()) for name in layers.split(",")]
    elif isinstance(layers, int):
        layers = [layers]
    for layer in layers or ():
        if isinstance(layer, bool) or not isinstance(layer, (int, str)):
            raise ArgumentTypeError(
                "layers must be layers of the file as it calls them, as in "
                f"[-1, 'embeddings']; found {layer!r} ({type(layer).__name__})"
            )
    return Selection(None if layers is None else tuple(layers), lines)


def _from_text(name: str) -> int | str:
    return int(name) if re.fullmatch(r"[+-]?[0-9]{1,9}", name) else name
