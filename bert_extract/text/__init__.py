"""Bytes of the input -> lines -> examples, and shards of them.

Here lives what a line is, what a pair is, which files `--input_file` names, and where
an input is cut into parts. A newcomer may change what errors say about an input, and
add a way to name files; what counts as a line is the original's, and the line numbers
of every output hang on it.
"""
