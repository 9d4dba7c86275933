"""`python -m bert_extract` is the command."""

from bert_extract.cli import run

run()
