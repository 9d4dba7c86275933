"""Checkpoints to test with, in the formats that people have."""

import json
import mmap
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from bert_extract.model.config import BertConfig, variable_shapes

Weights = dict[str, NDArray[Any]]

# Hugging Face's names of BertModel -> Google's. Its `weight` of a dense layer is
# Google's kernel transposed. "{}" stands for the encoder layer.
TF1_NAMES = {
    "embeddings.word_embeddings.weight": "embeddings/word_embeddings",
    "embeddings.position_embeddings.weight": "embeddings/position_embeddings",
    "embeddings.token_type_embeddings.weight": "embeddings/token_type_embeddings",
    "embeddings.LayerNorm": "embeddings/LayerNorm",
    "encoder.layer.{}.attention.self.query": "encoder/layer_{}/attention/self/query",
    "encoder.layer.{}.attention.self.key": "encoder/layer_{}/attention/self/key",
    "encoder.layer.{}.attention.self.value": "encoder/layer_{}/attention/self/value",
    "encoder.layer.{}.attention.output.dense": (
        "encoder/layer_{}/attention/output/dense"
    ),
    "encoder.layer.{}.attention.output.LayerNorm": (
        "encoder/layer_{}/attention/output/LayerNorm"
    ),
    "encoder.layer.{}.intermediate.dense": "encoder/layer_{}/intermediate/dense",
    "encoder.layer.{}.output.dense": "encoder/layer_{}/output/dense",
    "encoder.layer.{}.output.LayerNorm": "encoder/layer_{}/output/LayerNorm",
    "pooler.dense": "pooler/dense",
}
CONFIG_SIZES = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"),
    *("intermediate_size", "max_position_embeddings", "type_vocab_size"),
)
_SAFETENSORS_DTYPES = {"F32": np.float32, "I64": np.int64}


def write_tf1_checkpoint(prefix: Path | str, weights: Mapping[str, Any]) -> None:
    """Writes `prefix`.index and its data file, as TF1's Saver names variables."""
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(weights),
        shape_and_slices=[""] * len(weights),
        tensors=list(weights.values()),
    )


def read_tf1_checkpoint(prefix: Path | str) -> Weights:
    """Every variable of a TF1 checkpoint, by the reader that TensorFlow documents."""
    reader = tf.train.load_checkpoint(str(prefix))
    return {
        name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()
    }


def random_weights(config: BertConfig, seed: int) -> Weights:
    """float32 weights of the size that training gives, the pooler's among them."""
    rng = np.random.default_rng(seed)
    shapes = variable_shapes(config) | {
        "bert/pooler/dense/kernel": (config.hidden_size, config.hidden_size),
        "bert/pooler/dense/bias": (config.hidden_size,),
    }
    weights: Weights = {}
    for name, shape in shapes.items():
        values = rng.standard_normal(shape, dtype=np.float32)
        weights[name] = (
            1 + 0.1 * values if name.endswith("gamma") else 0.05 * values
        ).astype(np.float32)
    return weights


def read_safetensors(safetensors_file: Path) -> Weights:
    """Tensors by name, as views of the mapped file."""
    with safetensors_file.open("rb") as reader:
        content = mmap.mmap(reader.fileno(), 0, access=mmap.ACCESS_READ)
    header_end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:header_end])
    header.pop("__metadata__", None)
    weights: Weights = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        dtype = np.dtype(_SAFETENSORS_DTYPES[entry["dtype"]])
        values = np.frombuffer(
            content, dtype, (end - start) // dtype.itemsize, header_end + start
        )
        weights[name] = values.reshape(entry["shape"])
    return weights


def write_safetensors(
    safetensors_file: Path,
    weights: Mapping[str, NDArray[Any]],
    dtype: str = "F32",
) -> None:
    """Tensors by name, one behind the other; uint16 arrays are bfloat16's bits."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    blocks = []
    end = 0
    for name, values in weights.items():
        begin, end = end, end + values.nbytes
        entry_dtype = "I64" if values.dtype == np.int64 else dtype
        header[name] = {
            "dtype": entry_dtype,
            "shape": list(values.shape),
            "data_offsets": [begin, end],
        }
        blocks.append(np.ascontiguousarray(values).tobytes())
    head = json.dumps(header).encode()
    safetensors_file.write_bytes(
        len(head).to_bytes(8, "little") + head + b"".join(blocks)
    )


def to_huggingface_weights(weights: Weights, root: str = "") -> Weights:
    """Google's names and shapes -> those of Hugging Face's BertModel."""
    by_tf1_name = {tf1_name: name for name, tf1_name in TF1_NAMES.items()}
    kinds = {"gamma": "weight", "beta": "bias", "kernel": "weight", "bias": "bias"}
    found: Weights = {}
    for tf1_name, values in weights.items():
        numbers = re.findall(r"layer_(\d+)", tf1_name)
        pattern = re.sub(r"layer_\d+", "layer_{}", tf1_name).removeprefix("bert/")
        if pattern in by_tf1_name:
            found[root + by_tf1_name[pattern]] = values
            continue
        module, _, kind = pattern.rpartition("/")
        name = f"{by_tf1_name[module].format(*numbers)}.{kinds[kind]}"
        found[root + name] = values.T if kind == "kernel" else values
    return found


def write_huggingface_model(
    directory: Path, config: BertConfig, weights: Weights, **keys: Any
) -> None:
    """config.json and model.safetensors of TF1 weights; `keys` are the config's."""
    sizes = {key: getattr(config, key) for key in CONFIG_SIZES}
    config_object = {"model_type": "bert", "hidden_act": "gelu", **sizes, **keys}
    (directory / "config.json").write_text(json.dumps(config_object))
    write_safetensors(directory / "model.safetensors", to_huggingface_weights(weights))


def to_tf1_weights(huggingface_weights: Weights) -> Weights:
    """Hugging Face's BertModel -> the same under Google's names and shapes."""
    weights: Weights = {}
    for name, values in huggingface_weights.items():
        numbers = re.findall(r"\.(\d+)\.", name)
        pattern = re.sub(r"\.\d+\.", ".{}.", name)
        if pattern in TF1_NAMES:
            weights[f"bert/{TF1_NAMES[pattern]}"] = values
            continue
        module, _, kind = pattern.rpartition(".")
        if module not in TF1_NAMES:
            assert name == "embeddings.position_ids", name
            continue
        tf1_name = f"bert/{TF1_NAMES[module].format(*numbers)}"
        if module.endswith("LayerNorm"):
            weights[f"{tf1_name}/{'gamma' if kind == 'weight' else 'beta'}"] = values
        elif kind == "weight":
            weights[f"{tf1_name}/kernel"] = np.ascontiguousarray(values.T)
        else:
            weights[f"{tf1_name}/bias"] = values
    return weights


def write_minilm_tf1(minilm_dir: Path, directory: Path) -> None:
    """The Hugging Face directory, as Google would have published it."""
    shutil.copyfile(minilm_dir / "vocab.txt", directory / "vocab.txt")
    # Google's reading of "gelu" is the tanh form; the rest of the config is the same.
    config = json.loads((minilm_dir / "config.json").read_text())
    for key in ("model_type", "architectures"):
        del config[key]
    (directory / "bert_config.json").write_text(json.dumps(config))
    weights = to_tf1_weights(read_safetensors(minilm_dir / "model.safetensors"))
    # Real checkpoints have it too.
    weights["global_step"] = np.array(0, np.int64)
    write_tf1_checkpoint(directory / "bert_model.ckpt", weights)


def write_shards(directory: Path, stored: Weights) -> Path:
    """Two files and their index, as transformers cuts a large model."""
    names = list(stored)
    weight_map: dict[str, str] = {}
    for number, part in enumerate((names[:20], names[20:]), 1):
        file_name = f"model-{number:05d}-of-00002.safetensors"
        write_safetensors(directory / file_name, {name: stored[name] for name in part})
        weight_map |= dict.fromkeys(part, file_name)
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index
