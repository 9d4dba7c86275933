"""Hugging Face's safetensors -> variables by TF1 name."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import tensorflow as tf

from bert_extract.checkpoints.base import (
    NameTable,
    Source,
    StoredVariable,
    WeightLayout,
    look_up,
)
from bert_extract.checkpoints.safetensors_file import MAX_HEADER_BYTES, SafetensorsFile
from bert_extract.errors import CheckpointError
from bert_extract.files import read_bytes

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = f"{WEIGHTS_NAME}.index.json"

# First bytes of what torch.save writes: a zip archive, or before 2020 a bare pickle.
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_PICKLE_NAME = re.compile(r".*\.(bin|pt|pth|ckpt)")
_CONVERT = (
    'python -c "import torch, safetensors.torch as s; '
    "s.save_file({{k: v.clone().contiguous() for k, v in torch.load('{path}', "
    "map_location='cpu', weights_only=True).items()}}, '{root}model.safetensors')\""
)
# torch cuts a large model into several files, and names them in an index.
_TORCH = "pytorch_model"
_TORCH_INDEX = f"{_TORCH}.bin.index.json"
_TORCH_SHARD = re.compile(rf"{_TORCH}-\d+-of-\d+\.bin")
_CONVERT_SHARDS = (
    'python -c "import pathlib, torch, safetensors.torch as s; '
    "d = pathlib.Path('{folder}'); s.save_file({{k: v.clone().contiguous() "
    f"for f in d.glob('{_TORCH}-*.bin') for k, v in "
    "torch.load(f, map_location='cpu', weights_only=True).items()}}, "
    "d / 'model.safetensors')\""
)
# A file of TensorFlow's checkpoints, behind the prefix.
_DATA_FILE = re.compile(r"(.+)\.data-\d{5}-of-\d{5}")
_HDF5 = b"\x89HDF\r\n\x1a\n"
# A plain name: of this folder, and not hidden.
_FILE_NAME = re.compile(r"[\w-][\w.-]{0,250}")

# Before the names, where a model with a head was saved.
_ROOTS = ("", "bert.")
_WORDS = "embeddings.word_embeddings.weight"


def _dense(tf1_name: str, name: str) -> dict[str, Source]:
    return {
        f"bert/{tf1_name}/kernel": Source((f"{name}.weight",), WeightLayout.TRANSPOSED),
        f"bert/{tf1_name}/bias": Source((f"{name}.bias",)),
    }


def _norm(tf1_name: str, name: str) -> dict[str, Source]:
    # The second names are those of checkpoints from before 2020.
    return {
        f"bert/{tf1_name}/gamma": Source((f"{name}.weight", f"{name}.gamma")),
        f"bert/{tf1_name}/beta": Source((f"{name}.bias", f"{name}.beta")),
    }


_NAMES: NameTable = {
    "bert/embeddings/word_embeddings": Source((_WORDS,)),
    "bert/embeddings/token_type_embeddings": Source(
        ("embeddings.token_type_embeddings.weight",)
    ),
    "bert/embeddings/position_embeddings": Source(
        ("embeddings.position_embeddings.weight",)
    ),
    **_norm("embeddings/LayerNorm", "embeddings.LayerNorm"),
    **{
        tf1_name: source
        for part in (
            *("attention.self.query", "attention.self.key", "attention.self.value"),
            *("attention.output.dense", "intermediate.dense", "output.dense"),
        )
        for tf1_name, source in _dense(
            f"encoder/layer_{{}}/{part.replace('.', '/')}", f"encoder.layer.{{}}.{part}"
        ).items()
    },
    **_norm(
        "encoder/layer_{}/attention/output/LayerNorm",
        "encoder.layer.{}.attention.output.LayerNorm",
    ),
    **_norm("encoder/layer_{}/output/LayerNorm", "encoder.layer.{}.output.LayerNorm"),
    **_dense("pooler/dense", "pooler.dense"),
}


class HuggingFaceCheckpoint:
    """model.safetensors, or the files that its index names.

    Attributes:
      path: the safetensors file, or the index.
      files: the safetensors files, and the index where there is one.
      variables: every tensor, by its name there.
    """

    config_name = "config.json"
    not_bert_hint = "No tensor has one of BERT's names, such as " + _WORDS
    missing_hint = (
        "Is the checkpoint whole, and a BertModel that Hugging Face's code saved?"
    )

    def __init__(self, path: str, file_of: Mapping[str, SafetensorsFile]) -> None:
        """Takes the file of each tensor; `open` finds them."""
        self.path = path
        self._file_of = file_of
        self.files = tuple(sorted({path, *(file.path for file in file_of.values())}))
        self.variables: Mapping[str, StoredVariable] = {
            name: file.variables[name] for name, file in file_of.items()
        }
        roots = [root for root in _ROOTS if root + _WORDS in self.variables]
        if len(roots) > 1:
            raise CheckpointError(
                f"{path}: expected one BERT; found {_WORDS} and {roots[1]}{_WORDS}"
            )
        self._root = roots[0] if roots else ""

    @classmethod
    def open(cls, path: str) -> "HuggingFaceCheckpoint":
        """Reads the headers of a safetensors file, or of those that an index names.

        Raises:
          CheckpointError: a file cannot be read, is damaged, or is of another format.
        """
        if _is_index(_first_bytes(path)):
            return cls(path, _files_of_index(path))
        file = SafetensorsFile(path)
        return cls(path, dict.fromkeys(file.variables, file))

    def source(self, tf1_name: str) -> Source:
        """Where the variable is, under the root that the checkpoint has."""
        return look_up(_NAMES, tf1_name, self._root)

    def read(self, names: Sequence[str]) -> Iterator[tf.Tensor]:
        """Yields tensors on the CPU, in order, one read ahead."""
        with ThreadPoolExecutor(max_workers=1) as pool:
            ahead = None
            for name in names:
                tensor = ahead
                ahead = pool.submit(self._file_of[name].read, name)
                if tensor is not None:
                    yield tensor.result()
            if ahead is not None:
                yield ahead.result()

    def checksum(self) -> str:
        """SHA-256 over every byte: there is no checksum in the files.

        The size and the time of a file would cost nothing; but a copy of a folder has
        other times, and a file that was changed may have the old one. 440 MB are read
        and summed in less time than TensorFlow takes to start.
        """
        files = {file.path: file for file in self._file_of.values()}
        digests = [files[path].checksum() for path in sorted(files)]
        if self.path not in files:  # the index, which says whose tensor counts
            digests.append(hashlib.sha256(_read_index(self.path)).hexdigest())
        return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def find_safetensors(init_checkpoint: str) -> str | None:
    """The safetensors file or index that a path stands for; None if it is neither.

    A directory stands for its model.safetensors or model.safetensors.index.json, or
    for its only file that ends in .safetensors.

    Raises:
      CheckpointError: the directory holds more than one checkpoint, or the path is a
        pickle or another file that is not read.
    """
    try:
        if not tf.io.gfile.isdir(init_checkpoint):
            # The prefix of TensorFlow's files may be a file's name besides.
            is_prefix = tf.io.gfile.exists(f"{init_checkpoint}.index")
            is_file = not is_prefix and tf.io.gfile.exists(init_checkpoint)
            return _check_file(init_checkpoint) if is_file else None
        names = sorted(tf.io.gfile.listdir(init_checkpoint))
    except (tf.errors.OpError, UnicodeEncodeError):
        return None  # whoever looks for TensorFlow's files next will say it
    found = [name for name in (WEIGHTS_NAME, INDEX_NAME) if name in names]
    found = found or [name for name in names if name.endswith(".safetensors")]
    # Others than TensorFlow have an .index, too, but no data files beside it.
    prefixes = {match[1] for match in map(_DATA_FILE.fullmatch, names) if match}
    others = [name for name in names if name.removesuffix(".index") in prefixes]
    if len(found) > 1 or (found and others):
        raise CheckpointError(
            f"{init_checkpoint}: holds more than one checkpoint; give the path of one "
            "as --init_checkpoint:" + "".join(f"\n  {n}" for n in found + others)
        )
    root = "/" if init_checkpoint == "/" else init_checkpoint.rstrip("/") + "/"
    if not found and not others:
        for name in sorted(filter(_PICKLE_NAME.fullmatch, names), key=_rank):
            _check_file(root + name)
    return root + found[0] if found else None


def _rank(name: str) -> tuple[bool, bool]:
    """Puts the model's pickles first: an optimizer's or the arguments' help nobody."""
    return name != f"{_TORCH}.bin", not name.startswith(_TORCH)


def _check_file(path: str) -> str | None:
    """The path, if what it holds is safetensors or an index of them."""
    start = _first_bytes(path)
    if _is_safetensors(start):
        return path
    root, name = path[: path.rfind("/") + 1], path[path.rfind("/") + 1 :]
    if start.startswith(_PICKLES) or name == _TORCH_INDEX:
        is_part = name == _TORCH_INDEX or _TORCH_SHARD.fullmatch(name)
        convert = _CONVERT_SHARDS if is_part else _CONVERT
        raise CheckpointError(
            f"{path}: is a pickle of torch{', one of several' if is_part else ''}, and "
            "a pickle is a program: it is not read. If it comes from somebody you "
            f"trust, make {WEIGHTS_NAME} from {'all of them' if is_part else 'it'}, in "
            "an environment with torch and safetensors:\n"
            f"  {convert.format(path=path, root=root, folder=root or '.')}"
        )
    if start.startswith(_HDF5):
        raise CheckpointError(
            f"{path}: is an HDF5 file of Keras, which is not read: take the model's "
            f"{WEIGHTS_NAME}, or the files of a TensorFlow checkpoint"
        )
    is_named = path.endswith(".safetensors")  # and damaged, as its reader will say
    return path if _is_index(start) or is_named else None


def _is_safetensors(start: bytes) -> bool:
    """Whether a file begins with the length of a header, and with a header."""
    length = int.from_bytes(start[:8], "little")
    return start[8:9] == b"{" and length <= MAX_HEADER_BYTES


def _is_index(start: bytes) -> bool:
    """Whether a file begins as JSON does. A length may have the bytes of a brace."""
    return start.lstrip()[:1] == b"{" and not _is_safetensors(start)


def _first_bytes(path: str) -> bytes:
    """16 bytes, or what there are of them."""
    return read_bytes(path, CheckpointError, "cannot read it", 16)


def _files_of_index(index_file: str) -> dict[str, SafetensorsFile]:
    """The file of each tensor that the index names."""
    weight_map = _read_weight_map(index_file)
    directory = index_file.rpartition("/")[0]
    files: dict[str, SafetensorsFile] = {}
    for name in sorted(set(weight_map.values())):
        # The index comes with the weights, and must not choose among other files.
        if not _FILE_NAME.fullmatch(name):
            raise CheckpointError(
                f"{index_file}: expected names of files beside it; found {name!r}"
            )
        files[name] = SafetensorsFile(f"{directory}/{name}" if directory else name)
    for tensor_name, name in weight_map.items():
        if tensor_name not in files[name].variables:
            raise CheckpointError(
                f"{index_file}: says that {tensor_name!r} is in {name}, which lacks "
                "it: copy or download both again"
            )
    return {tensor_name: files[name] for tensor_name, name in weight_map.items()}


def _read_index(index_file: str) -> bytes:
    """Its bytes, or one more than are allowed."""
    most = MAX_HEADER_BYTES + 1
    return read_bytes(index_file, CheckpointError, "cannot read it", most)


def _read_weight_map(index_file: str) -> dict[str, str]:
    content = _read_index(index_file)
    expected = f"{index_file}: expected an index of safetensors files"
    if len(content) > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{expected}; found more than the {MAX_HEADER_BYTES} bytes that are read"
        )
    try:
        index = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{expected}; not valid JSON: {error}") from error
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not all(
        isinstance(name, str) for name in weight_map.values()
    ):
        raise CheckpointError(
            f'{expected}, with a "weight_map" from tensors to files; found none'
        )
    return weight_map
