"""The contenders on TensorFlow: our tool, the original's algorithm, the ceiling.

    benchmark_tensorflow.py serve SETTING   a worker, see benchmark_worker.py
    benchmark_tensorflow.py checkpoint HUGGINGFACE_DIR TF1_DIR
                                            the same weights as Google publishes them

Runs in the project's environment.
"""

import json
import math
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from benchmark_worker import (
    BATCH_SIZE,
    LAYERS,
    MAX_SEQ_LENGTH,
    Commands,
    ModelFiles,
    Setting,
    best_matmul_rate,
    make_durable,
    serve,
)
from bert_extract import FeatureExtractor
from bert_extract.inputs import batching
from bert_extract.inputs.features import (
    Features,
    LinePart,
    TakenTokens,
    to_features,
)
from bert_extract.progress import Summary
from bert_extract.text.examples import parse_line
from bert_extract.tokenization.tokenizer import Tokenizer
from bert_extract.tokenization.vocab import Vocab

# Full batches: as many tokens as a text of this many lines of the greatest length.
NUM_FULL_LINES = 64


def load(setting: Setting, files: ModelFiles) -> tuple[Commands, dict[str, str]]:
    """Loads the contender that the setting names."""
    loaders: dict[str, Callable[[Setting, ModelFiles], Commands]] = {
        "ours": _load_ours,
        "original": _load_original,
        "ceiling": _load_ceiling,
    }
    commands = loaders[setting.contender](setting, files)
    return commands, {"tensorflow": tf.__version__}


def _load_ours(setting: Setting, files: ModelFiles) -> Commands:
    layers = LAYERS[: _config_of(files.tf1_dir)["num_hidden_layers"]]
    extractor = FeatureExtractor(
        vocab_file=f"{files.tf1_dir}/vocab.txt",
        bert_config_file=f"{files.tf1_dir}/bert_config.json",
        init_checkpoint=f"{files.tf1_dir}/bert_model.ckpt",
        layers=",".join(map(str, layers)),
        max_seq_length=MAX_SEQ_LENGTH,
        batch_size=BATCH_SIZE,
        precision=setting.precision,
        num_threads=setting.num_encoders,
    )

    def run(input_file: str, output_file: str) -> dict[str, Any]:
        summary = extractor.extract_file(input_file, output_file)
        return {
            "num_tokens": summary.num_tokens,
            "num_lines": summary.num_lines,
            "num_slots": summary.num_slots,
        }

    encoder = _Encoder(extractor)
    return {
        "run": run,
        "encode": encoder.encode_text,
        "encode_full": encoder.encode_full_batches,
    }


class _Encoder:
    """Our encoder alone: the batches of a run, and nothing else of it.

    The only place that looks behind the package's public names.
    """

    def __init__(self, extractor: FeatureExtractor) -> None:
        self._engine = extractor._engine

    def encode_text(self, input_file: str) -> dict[str, Any]:
        """Computes what a run on the text would compute."""
        with open(input_file, encoding="utf-8") as lines:
            examples = [
                parse_line(line.rstrip("\n"), number)
                for number, line in enumerate(lines)
            ]
        features = self._engine._features(examples, Summary(), keeps_line=False)
        stretches = batching.stretches(features, self._engine._stretch_tokens())
        return self._encode(
            [
                batch
                for groups in stretches
                for batch in self._cut([line for group in groups for line in group])
            ]
        )

    def encode_full_batches(self) -> dict[str, Any]:
        """Computes lines of the greatest length, in batches of the tool's own size."""
        rng = np.random.default_rng(0)
        shape = (NUM_FULL_LINES, MAX_SEQ_LENGTH)
        all_ids = rng.integers(0, self._engine.model.config.vocab_size, shape, np.int32)
        token_type_ids = np.zeros(MAX_SEQ_LENGTH, np.int32)
        part = LinePart(TakenTokens(0, MAX_SEQ_LENGTH))
        stretch = [
            Features(number, input_ids, token_type_ids, False, False, part)
            for number, input_ids in enumerate(all_ids)
        ]
        return self._encode(self._cut(stretch))

    def _cut(self, stretch: Sequence[Features]) -> list[list[Features]]:
        batches = self._engine._plan(stretch)
        return [[stretch[i] for i in line_indexes] for line_indexes in batches]

    def _encode(self, batches: Sequence[Sequence[Features]]) -> dict[str, Any]:
        waiting = deque(batches)

        def work(thread_number: int) -> None:
            while True:
                try:
                    batch = waiting.popleft()
                except IndexError:
                    return
                self._engine._compute(thread_number, batch)

        threads = [
            threading.Thread(target=work, args=(number,))
            for number in range(self._engine.model.num_threads)
        ]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        num_tokens = sum(len(line.input_ids) for batch in batches for line in batch)
        return {"num_tokens": num_tokens, "seconds": time.perf_counter() - start}


def _load_original(_: Setting, files: ModelFiles) -> Commands:
    """What extract_features.py does, on the TensorFlow of today, one step at a time.

    Only the tokenizer is ours, which favours it: the original's takes 20 times as long.
    """
    vocab = Vocab.load(f"{files.tf1_dir}/vocab.txt")
    tokenizer = Tokenizer(vocab, do_lower_case=True)
    encode = original_encoder(files.tf1_dir)

    def run(input_file: str, output_file: str) -> dict[str, Any]:
        num_tokens = 0
        with open(input_file, encoding="utf-8") as reader:
            examples = [
                parse_line(line.rstrip("\n"), number)
                for number, line in enumerate(reader)
            ]
        lines = iter(to_features(examples, tokenizer, MAX_SEQ_LENGTH))
        with open(output_file, "w", encoding="utf-8") as out:
            while batch := list(islice(lines, BATCH_SIZE)):
                outputs = encode(*padded(batch))
                layers = [output.numpy() for output in outputs]
                for row, line in enumerate(batch):
                    tokens = [vocab.tokens[i] for i in line.input_ids.tolist()]
                    num_tokens += len(tokens)
                    vectors = [layer[row] for layer in layers]
                    out.write(_original_line(line.unique_id, tokens, vectors) + "\n")
            make_durable(out)
        return {"num_tokens": num_tokens, "num_lines": len(examples)}

    return {"run": run}


def padded(batch: Sequence[Features]) -> tuple[Any, Any, Any]:
    """The original's padding; the last batch has fewer rows.

    Returns:
      input_ids, input_mask, token_type_ids: int32 [batch, MAX_SEQ_LENGTH].
    """
    columns = np.zeros((3, len(batch), MAX_SEQ_LENGTH), np.int32)
    for row, line in enumerate(batch):
        num_tokens = len(line.input_ids)
        columns[0, row, :num_tokens] = line.input_ids
        columns[1, row, :num_tokens] = 1
        columns[2, row, :num_tokens] = line.token_type_ids
    return tuple(tf.constant(column) for column in columns)


def _original_line(number: int, tokens: Sequence[str], layers: Sequence[Any]) -> str:
    all_features = []
    for place, token in enumerate(tokens):
        all_layers = [
            {"index": index, "values": [round(float(x), 6) for x in layer[place].flat]}
            for index, layer in zip(LAYERS, layers, strict=False)
        ]
        all_features.append({"token": token, "layers": all_layers})
    return json.dumps({"linex_index": number, "features": all_features})


def _config_of(tf1_dir: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(
        Path(tf1_dir, "bert_config.json").read_text("utf-8")
    )
    return config


def original_encoder(tf1_dir: str) -> Callable[..., list[Any]]:
    """The original's graph, op for op: B batch, S seq, H hidden_size, N heads."""
    config = _config_of(tf1_dir)
    reader = tf.train.load_checkpoint(f"{tf1_dir}/bert_model.ckpt")
    variables = {
        name: tf.Variable(reader.get_tensor(name), trainable=False)
        for name in reader.get_variable_to_shape_map()
        if name.startswith("bert/e")
    }
    num_heads = config["num_attention_heads"]
    hidden_size = config["hidden_size"]
    head_size = hidden_size // num_heads

    def dense(x: Any, name: str) -> Any:
        kernel, bias = variables[f"{name}/kernel"], variables[f"{name}/bias"]
        return tf.nn.bias_add(tf.matmul(x, kernel), bias)

    def layer_norm(x: Any, name: str) -> Any:
        mean, variance = tf.nn.moments(x, [-1], keepdims=True)
        beta = variables[f"{name}/LayerNorm/beta"]
        gamma = variables[f"{name}/LayerNorm/gamma"]
        return tf.nn.batch_normalization(x, mean, variance, beta, gamma, 1e-12)

    def gelu(x: Any) -> Any:
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * tf.pow(x, 3))
        return x * 0.5 * (1.0 + tf.tanh(inner))

    def attend(x: Any, adder: Any, scope: str) -> Any:  # [B * S, H]
        def by_head(part: str) -> Any:
            shape = [-1, MAX_SEQ_LENGTH, num_heads, head_size]
            return tf.transpose(
                tf.reshape(dense(x, f"{scope}/{part}"), shape), [0, 2, 1, 3]
            )

        scores = tf.matmul(by_head("query"), by_head("key"), transpose_b=True)
        scores = tf.nn.softmax(scores / math.sqrt(head_size) + adder)  # [B, N, S, S]
        context = tf.transpose(tf.matmul(scores, by_head("value")), [0, 2, 1, 3])
        return tf.reshape(context, [-1, hidden_size])

    def encode(input_ids: Any, input_mask: Any, token_type_ids: Any) -> list[Any]:
        scope = "bert/embeddings"
        x = tf.gather(variables[f"{scope}/word_embeddings"], input_ids)
        x += tf.gather(variables[f"{scope}/token_type_embeddings"], token_type_ids)
        x += variables[f"{scope}/position_embeddings"][:MAX_SEQ_LENGTH]
        x = tf.reshape(layer_norm(x, scope), [-1, hidden_size])
        adder = (1.0 - tf.cast(input_mask, tf.float32))[:, None, None, :] * -10000.0
        all_encoder_layers = []
        for number in range(config["num_hidden_layers"]):
            scope = f"bert/encoder/layer_{number}"
            context = attend(x, adder, f"{scope}/attention/self")
            attention = dense(context, f"{scope}/attention/output/dense")
            x = layer_norm(attention + x, f"{scope}/attention/output")
            wide = gelu(dense(x, f"{scope}/intermediate/dense"))
            x = layer_norm(dense(wide, f"{scope}/output/dense") + x, f"{scope}/output")
            shape = [-1, MAX_SEQ_LENGTH, hidden_size]
            all_encoder_layers.append(tf.reshape(x, shape))
        return all_encoder_layers[: -len(LAYERS) - 1 : -1]  # as LAYERS has them

    signature = [tf.TensorSpec([None, MAX_SEQ_LENGTH], tf.int32)] * 3
    traced: Callable[..., list[Any]] = tf.function(
        encode, input_signature=signature, autograph=False
    )
    return traced


def _load_ceiling(setting: Setting, _: ModelFiles) -> Commands:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(setting.num_encoders)

    def make(rows: int, inner: int, columns: int) -> Callable[[], object]:
        left = tf.cast(tf.random.normal([rows, inner]), setting.precision)
        right = tf.cast(tf.random.normal([inner, columns]), setting.precision)
        return lambda: tf.matmul(left, right)

    return {"matmul": lambda: best_matmul_rate(make, setting.num_encoders)}


def write_tf1_dir(huggingface_dir: str, tf1_dir: str) -> None:
    """Writes a model as Google publishes them, from Hugging Face's files."""
    # The tests know how; there must not be a second way.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    from support.make_checkpoints import (
        read_safetensors,
        to_tf1_weights,
        write_tf1_checkpoint,
    )

    source, target = Path(huggingface_dir), Path(tf1_dir)
    target.mkdir(parents=True, exist_ok=True)
    config = json.loads((source / "config.json").read_text("utf-8"))
    config["hidden_act"] = "gelu"  # Google's name of Hugging Face's "gelu_new"
    (target / "bert_config.json").write_text(json.dumps(config, indent=1), "utf-8")
    shutil.copyfile(source / "vocab.txt", target / "vocab.txt")
    weights = to_tf1_weights(read_safetensors(source / "model.safetensors"))
    write_tf1_checkpoint(target / "bert_model.ckpt", weights)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(load)
    else:
        write_tf1_dir(*sys.argv[2:])
