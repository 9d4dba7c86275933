"""The one thing that pyproject.toml cannot say: a compiled part that may be missing."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "bert_extract._json_kernel",
            ["bert_extract/_json_kernel.c"],
            extra_compile_args=["-O3"],
            # Without a compiler the package installs all the same and writes the
            # same bytes in Python.
            optional=True,
        )
    ]
)
