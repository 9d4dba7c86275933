"""Wordpieces -> model inputs -> batches: the only place that truncates and pads.

Special tokens and truncation, the words and windows of a line, and which lines are
computed together. A newcomer may change how batches are made, which no result depends
on; how a pair is truncated is the original's.
"""
