"""Per-token BERT vectors from text files, on TensorFlow 2."""
