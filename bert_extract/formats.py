"""The formats that an output can have: their names and suffixes, what they need."""

import importlib.util
from dataclasses import dataclass

from bert_extract.errors import BertExtractError


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of output."""

    name: str  # as --output_format takes it
    suffixes: tuple[str, ...]  # of a file's name; --output_dir gives the first
    is_json: bool  # JSON lines, compressed or not: a stream can take them
    package: str = ""  # what has to be installed for it, besides the tool
    extra: str = ""  # the tool's extra that installs it
    keeps_line: bool = False  # whether it holds the text of the lines


JSONL = Format("jsonl", (".jsonl",), is_json=True)
GZIP = Format("jsonl.gz", (".jsonl.gz", ".gz"), is_json=True)
ZSTANDARD = Format(
    "jsonl.zst", (".jsonl.zst", ".zst"), is_json=True, package="zstandard", extra="zst"
)
HDF5 = Format(
    "hdf5",
    (".h5", ".hdf5"),
    is_json=False,
    package="h5py",
    extra="hdf5",
    keeps_line=True,
)
PARQUET = Format(
    "parquet", (".parquet",), is_json=False, package="pyarrow", extra="parquet"
)
FORMATS = (JSONL, GZIP, ZSTANDARD, HDF5, PARQUET)
FORMAT_NAMES = tuple(each.name for each in FORMATS)


def format_of(path: str, name: str = "") -> Format:
    """The format of an output: the named one, or by the suffix, or JSONL."""
    for each in FORMATS:
        if name == each.name or (not name and path.endswith(each.suffixes)):
            return each
    return JSONL


def check_installed(
    output_format: Format, error: type[BertExtractError], path: str
) -> None:
    """Finds out before the work starts whether a format's package is there.

    Raises:
      BertExtractError: it is not; of the class that is given.
    """
    package = output_format.package
    if package and importlib.util.find_spec(package) is None:
        raise error(
            f"{path}: the format {output_format.name} needs the package {package}, "
            f"which is not installed: pip install {package}"
        )
