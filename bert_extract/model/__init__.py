"""BERT itself: its sizes, the forward pass, the devices, what is made of the layers.

The mathematics only: nothing here knows of files of text, of batches' order or of
outputs. A newcomer may add an activation or a pooling; float32 results are held to the
original's, bit for bit where a line must not depend on its neighbours.
"""
