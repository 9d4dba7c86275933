"""A file of records -> what a person wants to know of it, in text and in pictures.

What is in it, told at once however large it is; one record of it; the words whose
vectors are closest to one; pictures of vectors. Nothing here imports TensorFlow, and
nothing of a large file is read that need not be. A newcomer adds a question or a
picture here; README.md beside this file shows what there is. `inspect.py` is the door.
"""
