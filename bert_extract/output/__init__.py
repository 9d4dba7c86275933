"""What the model computed -> records -> a file that is whole or not there.

The formats, how their bytes reach the disk, how a stopped run is gone on with, and how
records are read back. A newcomer adds a format here; README.md beside this file says
what each holds. The JSON lines are the original's, byte for byte.
"""
