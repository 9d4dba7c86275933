"""Files of records in every format, as a run leaves them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bert_extract.formats import format_of
from bert_extract.output.record import Record, RecordPart, RecordSchema
from bert_extract.output.writers import OutputSpec, encoder_for, open_writer

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".h5", ".parquet")


def write_records(
    path: Path,
    records: Sequence[Record],
    *,
    vector_dtype: str = "float32",
    fingerprint: Mapping[str, Any] | None = None,
    is_done: bool = True,
    group: int = 4,
) -> Path:
    """Writes an output with its run file; or, of a run that is not done, the partial.

    Args:
      path: the output; its suffix is its format.
      records: of one kind; the first has the layers of all.
      vector_dtype: of a format that holds numbers as they are.
      fingerprint: what the run file is to tell.
      is_done: whether the run came to its end.
      group: records that are written at once, which become one compressed member.
    """
    first = records[0]
    schema = RecordSchema(
        first.indexes,
        first.layers[0].shape[1],
        first.texts is not None,
        first.offsets is not None,
    )
    kind = OutputSpec(format_of(str(path)), schema, vector_dtype)
    encode, _ = encoder_for(kind)
    writer = open_writer(str(path), kind, fingerprint or {}, resume=False)
    for start in range(0, len(records), group):
        parts = [*map(RecordPart, records[start : start + group])]
        writer.write(encode(parts), len(parts), is_whole=True)
    if is_done:
        writer.finish()
        return path
    writer.commit()
    writer.suspend()
    return Path(f"{path}.partial")
