"""BERT inside a Keras model, or beside it: the layer, and batches of what models take.

`encoder` puts weights that Keras owns into the forward pass of `model/modeling.py`,
which stays the only one; `text_inputs` makes of texts what it takes, and `vectors` of
files of records what other models take. A newcomer may touch how batches are made; what
the vectors are is decided in the other wings.
"""
