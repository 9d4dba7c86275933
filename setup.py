"""What pyproject.toml cannot say: compiled parts that may be missing."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            f"bert_extract.{name}",
            [f"bert_extract/{name}.c"],
            extra_compile_args=["-O3"],
            # Without a compiler the package installs all the same and writes the
            # same bytes in Python.
            optional=True,
        )
        for name in ("_json_kernel", "_crc_kernel")
    ]
)
