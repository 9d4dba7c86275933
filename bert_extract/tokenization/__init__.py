"""Text -> wordpieces, and where in the text each of them stood.

It is wordpiece for wordpiece what the original cuts, under the Unicode of one version
on every Python. A newcomer may read one more tokenizer file, or make it faster: the
tests compare every code point, and slow references in tests/support/ say what is meant.
"""
