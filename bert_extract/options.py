"""Every option once: its name, default, help and check.

`Options` says what the vectors are and how fast they come; `Job` says which text goes
into which file. The flags of the command and the arguments of the Python API are both
made of these fields.
"""

import dataclasses
import numbers
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bert_extract.errors import ArgumentTypeError, OptionsError
from bert_extract.formats import FORMAT_NAMES, format_of

EMBEDDINGS = "embeddings"  # the layer below encoder layer 0
POOLER = "pooler"  # BERT's pooled output, tanh(dense([CLS] of the last layer))
MODEL_POOLING = "model"  # what the model's own files say
ALL_LAYERS = "all"  # stands for 0 .. num_hidden_layers - 1
DEFAULT_LAYERS = "-1,-2,-3,-4"

# No machine has so many cores; TensorFlow has no message for absurd numbers.
_MAX_THREADS = 10_000

PRECISIONS = ("float32", "bfloat16", "float16")
ERROR_HANDLERS = ("strict", "replace", "ignore")
VECTOR_DTYPES = ("float32", "float16")
UNITS = ("wordpiece", "word", "sentence")
WORD_POOLINGS = ("first", "mean", "last")
SENTENCE_POOLINGS = ("mean", "cls", "max", POOLER, MODEL_POOLING)
LAYER_POOLINGS = ("none", "mean", "sum", "concat")
LONG_TEXTS = ("truncate", "window")
RUNNERS = ("local", "ray")


def _option(
    default: Any,
    help: str,
    choices: tuple[str, ...] | None = None,
    is_bool: bool = False,
) -> Any:
    """A dataclass field with the sentence that `--help` shows for it.

    `is_bool` is for a default of None, which does not say that it is true or false.
    """
    is_bool = is_bool or isinstance(default, bool)
    metadata = {"help": help, "choices": choices, "is_bool": is_bool}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the vectors are: the checkpoint, the layers, the lengths, the precision."""

    model_dir: str = _option(
        "",
        "The folder of a BERT as it was published, by Google, by the TensorFlow Model "
        "Garden or on Hugging Face: vocab, config and weights are found in it by their "
        "usual names. Each of the three flags below takes another file instead.",
    )
    vocab_file: str = _option(
        "",
        "The vocabulary file that the BERT model was trained on, one token a line, or "
        "its tokenizer.json.",
    )
    bert_config_file: str = _option(
        "",
        "The JSON file with the sizes of the BERT model, bert_config.json or "
        "config.json.",
    )
    init_checkpoint: str = _option(
        "",
        "The checkpoint with the weights: the prefix of its files, as in "
        "bert_model.ckpt, a safetensors file or the index of several, or a directory "
        "that holds one of them.",
    )
    pairs: bool = _option(
        True,
        "Whether ' ||| ' in a line separates the two texts of a pair, the last one if "
        "there are several. With false each line is one text, and any '|||' in it is "
        "text too.",
    )
    layers: str = _option(
        DEFAULT_LAYERS,
        "The encoder layers to write, separated by commas: 0 is the first one, -1 the "
        "last, 'all' is every one of them, 'embeddings' is what the first one gets (in "
        "JSON lines its index is that name, beside numbers, which not every reader "
        "takes). Layers above the highest one asked for are not computed.",
    )
    max_seq_length: int = _option(
        128,
        "The longest sequence in wordpieces, [CLS] and [SEP] included. Longer lines "
        "are truncated (--long_text says otherwise), and how many were is said at the "
        "end. Shorter lines cost no padding, so there is no need to lower it for "
        "speed.",
    )
    unit: str = _option(
        "wordpiece",
        "What gets a vector: each wordpiece, [CLS] and [SEP] included; each word, that "
        "is what stands between whitespace, zeros where the model saw nothing of it, "
        "so that there are as many entries as words; or the sentence, one entry.",
        UNITS,
    )
    word_pooling: str = _option(
        "mean",
        "With --unit=word, how a word gets its vector from those of its wordpieces: "
        "their mean, the first one or the last one.",
        WORD_POOLINGS,
    )
    sentence_pooling: str = _option(
        "mean",
        "With --unit=sentence, which vector that is: mean or max over the wordpieces "
        "without [CLS] and [SEP], cls for that of [CLS], pooler for BERT's own pooled "
        "output, a dense layer with tanh over [CLS] of the last layer; model for the "
        "pooling of a sentence-transformers model, as the files in --model_dir say it.",
        SENTENCE_POOLINGS,
    )
    layer_pooling: str = _option(
        "none",
        "Makes one vector of the --layers, in their order: their mean, their sum, or "
        "concat, one after another. none writes each.",
        LAYER_POOLINGS,
    )
    offsets: bool = _option(
        False,
        "Whether each entry tells where it stands in the line of the file: its first "
        "character and the one behind its last, counted in Unicode characters.",
    )
    long_text: str = _option(
        "truncate",
        "What becomes of a single text longer than --max_seq_length: truncate leaves "
        "its rest out, as the original does; window slides over it, and takes each "
        "wordpiece from the window where it has the most context. Pairs are truncated.",
        LONG_TEXTS,
    )
    doc_stride: int = _option(
        0,
        "With --long_text=window, how many wordpieces lie between the starts of two "
        "windows. The default of 0 takes half of what a window has room for, which is "
        "--max_seq_length - 2.",
    )
    do_lower_case: bool | None = _option(
        None,
        "Whether to lower-case the text and to strip its accents: true for uncased "
        "models, false for cased ones. By default what tokenizer_config.json or "
        "tokenizer.json beside the vocab says, and true where there is none.",
        is_bool=True,
    )
    batch_size: int = _option(
        32,
        "Bounds a batch at batch_size x max_seq_length token slots. The tool may take "
        "fewer; the vectors do not depend on it.",
    )
    precision: str = _option(
        "float32",
        "The arithmetic of the matrix products: float32 gives the original's digits, "
        "bfloat16 (CPUs with the instructions, GPUs) and float16 (GPUs) trade some of "
        "them for speed.",
        PRECISIONS,
    )
    num_threads: int = _option(
        0,
        "How many batches are computed at once on the CPU, each on one core. The "
        "default of 0 takes the cores that this process may use.",
    )

    def __post_init__(self) -> None:
        _take_python_values(self)

    def check(self) -> None:
        """Checks what can be checked without opening a file.

        Raises:
          OptionsError: a value cannot work, whatever the files hold.
        """
        _check_types(self)
        for name in ("vocab_file", "bert_config_file", "init_checkpoint"):
            if not getattr(self, name) and not self.model_dir:
                raise OptionsError(f"--{name} must be given, or --model_dir")
        self.check_vectors()
        if self.sentence_pooling == MODEL_POOLING and not self.model_dir:
            raise OptionsError(
                "--sentence_pooling=model reads how the model pools in its folder; "
                "give --model_dir"
            )

    def check_vectors(self) -> None:
        """Checks all but where the files are.

        Raises:
          OptionsError: as `check`.
        """
        _check_types(self)
        parse_layers(self.layers)
        _check_choice("precision", self.precision, PRECISIONS)
        if self.max_seq_length < 3:
            # Two places are [CLS] and [SEP]; the original fails on its first pair.
            raise OptionsError(
                "--max_seq_length must be at least 3, which is [CLS], one wordpiece "
                f"and [SEP]; found {self.max_seq_length}"
            )
        _check_at_least("batch_size", self.batch_size, 1)
        _check_at_least("num_threads", self.num_threads, 0)
        if self.num_threads > _MAX_THREADS:
            raise OptionsError(
                f"--num_threads must be at most {_MAX_THREADS}; found "
                f"{self.num_threads}"
            )
        self._check_units()
        self._check_doc_stride()

    @property
    def wants_pooler(self) -> bool:
        """Whether the vectors are BERT's pooled output, and not those of layers."""
        return self.unit == "sentence" and self.sentence_pooling == POOLER

    @property
    def pools_last_layer(self) -> bool:
        """Whether the pooling itself says which layer it takes, the last one."""
        return self.unit == "sentence" and self.sentence_pooling in (
            POOLER,
            MODEL_POOLING,
        )

    def _check_units(self) -> None:
        """Refuses what is no pooling, and one that would change nothing."""
        _check_choice("unit", self.unit, UNITS)
        _check_choice("word_pooling", self.word_pooling, WORD_POOLINGS)
        _check_choice("sentence_pooling", self.sentence_pooling, SENTENCE_POOLINGS)
        _check_choice("layer_pooling", self.layer_pooling, LAYER_POOLINGS)
        for name, unit in (("word_pooling", "word"), ("sentence_pooling", "sentence")):
            value = getattr(self, name)
            if value != "mean" and self.unit != unit:
                raise OptionsError(
                    f"--{name}={value} is for --unit={unit}; found --unit={self.unit}"
                )
        if not self.pools_last_layer:
            return
        for name, default in (("layers", DEFAULT_LAYERS), ("layer_pooling", "none")):
            value = getattr(self, name)
            if value != default:
                raise OptionsError(
                    f"--{name}={value}: with "
                    f"--sentence_pooling={self.sentence_pooling} there are no layers "
                    "to choose, it takes the last one; leave one of the two flags out"
                )

    def _check_doc_stride(self) -> None:
        _check_choice("long_text", self.long_text, LONG_TEXTS)
        _check_at_least("doc_stride", self.doc_stride, 0)
        if self.doc_stride and self.long_text != "window":
            raise OptionsError(
                f"--doc_stride={self.doc_stride} is for --long_text=window; found "
                f"--long_text={self.long_text}"
            )
        room = self.max_seq_length - 2
        if self.doc_stride > room:
            raise OptionsError(
                f"--doc_stride={self.doc_stride}: a window has room for {room} "
                f"wordpieces (--max_seq_length={self.max_seq_length}, less [CLS] and "
                "[SEP]), and those between two windows would be lost; give at most "
                f"{room}"
            )


@dataclass(frozen=True, kw_only=True)
class Job:
    """Which text goes into which file, and what happens when something goes wrong."""

    input_file: str = _option(
        "",
        "The text to read, one example a line, 'text_a ||| text_b' for a pair. A name "
        "of an existing file is that file; otherwise it is split at commas and globs "
        "are expanded. '-' is standard input; '.gz' and '.zst' files are read as they "
        "are.",
    )
    output_file: str = _option(
        "",
        "The file to write. Its suffix says the format: .jsonl, .jsonl.gz and "
        ".jsonl.zst for JSON lines, .h5 and .hdf5 for HDF5, .parquet for Parquet; any "
        "other name gets JSON lines. '-' is standard output. The file appears when it "
        "is complete; until then the work is in OUTPUT.partial.",
    )
    output_dir: str = _option(
        "",
        "Instead of --output_file: the folder that gets one output for each input "
        "file, x.jsonl for x.txt (or x.parquet with --output_format=parquet), with "
        "line numbers from 0 in each. It is made if it is not there.",
    )
    output_format: str = _option(
        "",
        "The format of the output, whatever its name ends in: jsonl, jsonl.gz, "
        "jsonl.zst, hdf5 or parquet. By default the suffix decides.",
    )
    vector_dtype: str = _option(
        "float32",
        "The numbers in HDF5 and Parquet: float32 is what was computed, float16 takes "
        "half the room and keeps three digits. JSON lines always have six decimals.",
        VECTOR_DTYPES,
    )
    errors: str = _option(
        "strict",
        "What to do with bytes that are not UTF-8, as Python names it: strict stops "
        "the run, replace reads U+FFFD (which the tokenizer drops), ignore drops them.",
        ERROR_HANDLERS,
    )
    resume: bool = _option(
        False,
        "Whether to go on after the last record of a run of the same command that was "
        "stopped. With nothing to resume it starts from the beginning; on a complete "
        "output it does nothing. A text that has changed since is refused; with "
        "--output_dir its output is made anew.",
    )
    overwrite: bool = _option(
        False,
        "Whether an output, a file beside it or the summary may also replace a file "
        "that is neither empty nor written by this tool or the original. What is read "
        "is never replaced.",
    )
    shard: str = _option(
        "",
        "Do only part I of N of the input, as in --shard=0/4: N contiguous parts, cut "
        "at line ends; a compressed file is never cut. The .jsonl outputs of all "
        "parts, concatenated, are the whole one, and so are .gz and .zst once they are "
        "decompressed; HDF5 and Parquet are read as one by read_features([...]).",
    )
    summary_file: str = _option(
        "",
        "A JSON file that tells at the end what ran and what came out of it, even "
        "if the run failed.",
    )
    runner: str = _option(
        "local",
        "Who computes: local is this process; ray are workers on a Ray cluster, each "
        "of which does splits of the input and leaves them as parts in OUTPUT.parts, a "
        "folder that all nodes must see. The flags from here on are for ray.",
        RUNNERS,
    )
    ray_address: str = _option(
        "",
        "The Ray cluster, as HOST:PORT of its head, or auto for the one that this "
        "machine belongs to. By default one is started on this machine alone, on "
        "loopback, and ends with the run.",
    )
    num_workers: int = _option(
        0,
        "How many workers there are at most. The default of 0 takes as many as the "
        "cluster has room for when the run begins; a number may be more, for nodes "
        "that come later.",
    )
    cpus_per_worker: int = _option(
        0,
        "The cores of each worker. The default of 0 takes those of the smallest node, "
        "shared among its GPUs, and 8 at most: a worker holds the weights once, and "
        "gains little from more cores than that.",
    )
    gpus_per_worker: int = _option(
        -1,
        "The GPUs of each worker. The default of -1 takes one where the cluster has "
        "any, so that there is a worker a GPU, and none elsewhere.",
    )
    split_bytes: int = _option(
        0,
        "How many bytes of input a worker takes at once; they are cut at line ends, "
        "and a compressed file never is. The default of 0 takes about a minute's work, "
        "and less where workers would have none. --resume keeps what the first run "
        "had.",
    )
    worker_timeout: int = _option(
        900,
        "Seconds without a line done after which a worker counts as lost, and its "
        "split goes to another one.",
    )
    join: bool = _option(
        True,
        "Whether the parts of JSON lines become one file, in order, and at the end "
        "OUTPUT.parts goes. With false, and always in HDF5 and Parquet, they stay: an "
        "ordered folder with _manifest.json and _SUCCESS.",
    )
    same_cpu: bool = _option(
        False,
        "Whether nodes whose arithmetic is not that of the first worker are left out, "
        "so that the output is byte for byte that of one machine. By default they "
        "help, within 2e-5, and the manifest says which part is whose.",
    )

    def __post_init__(self) -> None:
        _take_python_values(self)

    def check(self) -> None:
        """Checks what can be checked without opening a file.

        Raises:
          OptionsError: a value cannot work, or two do not go together.
        """
        _check_types(self)
        if not self.input_file:
            raise OptionsError("--input_file must be given")
        if not (self.output_file or self.output_dir):
            raise OptionsError("--output_file must be given, or --output_dir")
        if self.output_file and self.output_dir:
            raise OptionsError(
                f"--output_file={self.output_file} and --output_dir={self.output_dir} "
                "are both given: the first is for one output of all input files, the "
                "second for one output of each; leave one of them out"
            )
        _check_choice("errors", self.errors, ERROR_HANDLERS)
        self._check_format()
        is_stdin = self.input_file == "-"
        if parse_shard(self.shard) is not None and is_stdin:
            raise OptionsError(
                "--shard cannot cut standard input into parts; give a file"
            )
        if self.resume and is_stdin:
            raise OptionsError(
                "--resume cannot skip in standard input what was done before; give a "
                "file"
            )
        if self.output_dir and is_stdin:
            raise OptionsError(
                "--output_dir names each output after its input, and standard input "
                "has no name; give --output_file"
            )
        if self.output_dir and self.shard:
            raise OptionsError(
                "--shard cuts what goes into one output; give --output_file with it"
            )
        if self.resume and self.output_file == "-":
            raise OptionsError(
                "--resume cannot go on with standard output; give a file"
            )
        self._check_runner()

    def _check_runner(self) -> None:
        """Refuses what a cluster cannot do, and what only a cluster has a use for."""
        _check_choice("runner", self.runner, RUNNERS)
        if self.runner == "local":
            for name in _OF_CLUSTER:
                value = getattr(self, name)
                if value != _default_of(self, name):
                    shown = str(value).lower() if isinstance(value, bool) else value
                    raise OptionsError(
                        f"--{name}={shown} is for --runner=ray; found --runner=local"
                    )
            return
        for name, smallest in _OF_CLUSTER.items():
            if smallest is not None:
                _check_at_least(name, getattr(self, name), smallest)
        if self.output_dir:
            raise OptionsError(
                "--runner=ray makes one output, in --output_file; give each input a "
                "run of its own, or leave out --runner=ray"
            )
        if self.shard:
            raise OptionsError(
                "--shard: --runner=ray shares the input among its workers itself; "
                "leave one of the two flags out"
            )
        for name, path in (("input", self.input_file), ("output", self.output_file)):
            if path == "-":
                raise OptionsError(
                    f"--{name}_file=-: --runner=ray needs a file that every node sees"
                )
        if "://" in self.output_file:
            raise OptionsError(
                f"--output_file={self.output_file}: parts are put in their place by "
                "renaming, which an object store cannot do at once; give a path on a "
                "file system that every node has mounted, and copy the output"
            )

    def output_files(self, input_files: Sequence[str]) -> list[str]:
        """The outputs of a job that reads so many files.

        Raises:
          OptionsError: two inputs would have one output.
        """
        if not self.output_dir:
            return [self.output_file] if self.output_file else []
        suffix = format_of("", self.output_format).suffixes[0]
        return outputs_in(self.output_dir, input_files, suffix)

    def _check_format(self) -> None:
        if self.output_format:
            _check_choice("output_format", self.output_format, FORMAT_NAMES)
        _check_choice("vector_dtype", self.vector_dtype, VECTOR_DTYPES)
        output_format = format_of(self.output_file, self.output_format)
        if self.output_file == "-" and not output_format.is_json:
            raise OptionsError(
                f"--output_format={output_format.name} needs a file: standard output "
                "takes jsonl, jsonl.gz and jsonl.zst"
            )
        if output_format.is_json and self.vector_dtype != "float32":
            raise OptionsError(
                f"--vector_dtype={self.vector_dtype} is for HDF5 and Parquet; the "
                f"format {output_format.name} writes six decimals. Leave it out, or "
                "give --output_format=parquet or hdf5"
            )


# What `Job` has for clusters, and the least value of a number.
_OF_CLUSTER: dict[str, int | None] = {
    "ray_address": None,
    "num_workers": 0,
    "cpus_per_worker": 0,
    "gpus_per_worker": -1,
    "split_bytes": 0,
    "worker_timeout": 1,
    "join": None,
    "same_cpu": None,
}


def _default_of(options: Any, name: str) -> Any:
    (option,) = (each for each in dataclasses.fields(options) if each.name == name)
    return option.default


def outputs_in(
    output_dir: str, input_files: Sequence[str], suffix: str = ".jsonl"
) -> list[str]:
    """The output of each input: x.txt and x.txt.gz -> output_dir/x.jsonl.

    So is that of x.txt.zst.

    Raises:
      OptionsError: two inputs would have one output.
    """
    input_of: dict[str, str] = {}
    for path in input_files:
        stem = os.path.basename(path)
        for suffix_of_input in (".gz", ".zst", ".txt"):
            stem = stem.removesuffix(suffix_of_input)
        output_file = os.path.join(output_dir, stem + suffix)
        if output_file in input_of:
            raise OptionsError(
                f"--output_dir: {input_of[output_file]} and {path} would both be "
                f"written to {output_file}; rename one of them, or run them separately"
            )
        input_of[output_file] = path
    return list(input_of)


def _take_python_values(options: Options | Job) -> None:
    """Takes what Python has for a flag's text: a Path, and numbers for layers."""
    for option in dataclasses.fields(options):
        value = getattr(options, option.name)
        plain = value
        if isinstance(value, os.PathLike) and isinstance(option.default, str):
            plain = os.fspath(value)
        elif isinstance(value, numbers.Integral) and type(option.default) is int:
            plain = value if isinstance(value, bool) else int(value)  # NumPy's
        elif option.name == "layers" and isinstance(value, (int, list, tuple, range)):
            layers = [value] if isinstance(value, int) else value
            plain = ",".join(map(str, layers))
        if plain is not value:
            object.__setattr__(options, option.name, plain)  # it is being made


def _check_types(options: Options | Job) -> None:
    """Refuses what no flag could be.

    Raises:
      ArgumentTypeError: a value is of another type than its default.
    """
    for option in dataclasses.fields(options):
        value = getattr(options, option.name)
        if option.metadata["is_bool"]:
            expected, is_right = "True or False", isinstance(value, bool)
            if option.default is None:
                expected, is_right = f"{expected}, or None", is_right or value is None
        elif isinstance(option.default, int):
            # bool is an int to Python, but true is no number.
            is_right = isinstance(value, int) and not isinstance(value, bool)
            expected = "a whole number"
        else:
            expected, is_right = "a str", isinstance(value, str)
            if option.name == "layers":
                expected += " or a list, as in [-1, -2]"
        if not is_right:
            raise ArgumentTypeError(
                f"{option.name} must be {expected}; found {value!r} "
                f"({type(value).__name__})"
            )


def parse_layers(layers: str) -> tuple[int | str, ...]:
    """Reads `--layers`; "-1, embeddings" -> (-1, "embeddings").

    Raises:
      OptionsError: an entry is neither a whole number nor a known name.
    """
    layer_names: list[int | str] = []
    for entry in layers.split(","):
        name = entry.strip()
        if name in (EMBEDDINGS, ALL_LAYERS):
            layer_names.append(name)
        elif re.fullmatch(r"[+-]?[0-9]{1,9}", name):
            layer_names.append(int(name))
        else:
            raise OptionsError(
                "--layers must be whole numbers, 'embeddings' or 'all', separated by "
                f"commas; found {entry!r} in {layers!r}"
            )
    return tuple(layer_names)


def resolve_layers(layers: str, num_hidden_layers: int) -> tuple[int | str, ...]:
    """The layers to write, each as it is echoed in the output.

    Args:
      layers: as given to `--layers`.
      num_hidden_layers: how many encoder layers the model has.

    Returns:
      Python indexes into the encoder layers, as the original uses them, and
      "embeddings"; "all" is replaced by 0 .. num_hidden_layers - 1.

    Raises:
      OptionsError: an index is outside the model.
    """
    layer_names: list[int | str] = []
    for layer_name in parse_layers(layers):
        if layer_name == ALL_LAYERS:
            layer_names.extend(range(num_hidden_layers))
            continue
        if isinstance(layer_name, int) and not (
            -num_hidden_layers <= layer_name < num_hidden_layers
        ):
            raise OptionsError(
                f"--layers={layers}: the model has {num_hidden_layers} encoder layers, "
                f"0 to {num_hidden_layers - 1} or -{num_hidden_layers} to -1; found "
                f"{layer_name} (the layer below encoder layer 0 is called 'embeddings')"
            )
        layer_names.append(layer_name)
    return tuple(layer_names)


def parse_shard(shard: str) -> tuple[int, int] | None:
    """Reads `--shard`; "0/4" -> (0, 4), "" -> None.

    Raises:
      OptionsError: it is not I/N with 0 <= I < N.
    """
    if not shard:
        return None
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", shard)
    if match is None or int(match[1]) >= int(match[2]):
        raise OptionsError(
            f"--shard must be I/N with I from 0 to N - 1, as in 0/4; found {shard!r}"
        )
    return int(match[1]), int(match[2])


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise OptionsError(
            f"--{name} must be one of {', '.join(choices)}; found {value!r}"
        )


def _check_at_least(name: str, value: int, smallest: int) -> None:
    if value < smallest:
        raise OptionsError(f"--{name} must be at least {smallest}; found {value}")


def help_of(option: "dataclasses.Field[Any]") -> str:
    """The sentence that `--help` shows for a field of `Options` or `Job`."""
    help_text: str = option.metadata["help"]
    return help_text
