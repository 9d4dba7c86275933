"""A corpus -> splits -> parts of the output, made on many machines, put together.

The plan cuts the input, the workers of a Ray cluster make a part of the output of each
split, and the driver hands out, counts, retries and joins. A newcomer may change how
large splits are and what is told of a run; what a commit asks of the file system stands
in `output/parts.py`.
"""
