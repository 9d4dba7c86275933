#!/usr/bin/env python3
"""Writes the table of flags into configs/README.md, from the flags of the command.

    .venv/bin/python scripts/make_flags_table.py

A test holds that the table there is the one that this script writes.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any

from bert_extract.cli import make_flags
from bert_extract.options import Job, Options, help_of

TABLE_FILE = Path(__file__).resolve().parent.parent / "configs" / "README.md"
BEGIN = "<!-- flags: begin; made by scripts/make_flags_table.py -->\n"
END = "<!-- flags: end -->\n"


def flags_table() -> str:
    """Makes a row for each flag: its name, its default, what it does."""
    # absl puts an enum's choices into its help; the dataclasses have the sentence.
    sentences = {
        option.name: help_of(option)
        for options_class in (Job, Options)
        for option in dataclasses.fields(options_class)
    }
    rows = ["| flag | default | what it does |\n", "|---|---|---|\n"]
    values = make_flags()
    for name in values:
        flag = values[name]
        if flag.name != name:
            continue  # another name of one that has a row
        sentence = re.sub(r"^<.*?>: ", "", sentences.get(name, flag.help))
        sentence = sentence.replace("|", "\\|")
        sentence = re.sub(r"(--[a-z][\w=/]*)", r"`\1`", sentence)
        rows.append(f"| `--{name}` | {_default(name, flag.default)} | {sentence} |\n")
    return "".join(rows)


def _default(name: str, default: Any) -> str:
    if default in (None, "") or name in ("help", "version"):
        return ""
    text = str(default).lower() if isinstance(default, bool) else str(default)
    return f"`{text}`"


def with_table(page: str) -> str:
    """Puts the table between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + flags_table() + END + after


if __name__ == "__main__":
    text = TABLE_FILE.read_text(encoding="utf-8")
    TABLE_FILE.write_text(with_table(text), encoding="utf-8")
