"""Files of a published or trained model -> the weights of one BERT.

A module for each family, and one that finds out which it is. A newcomer adds a family
here: a class with the names of its variables (see `base`), a line in `opened`. Nothing
in a file is believed before it was checked, and nothing in it is executed.
"""
