"""The plan of the house: its wings, and the order in which modules may import."""

from pathlib import Path

import bert_extract

PACKAGE_DIR = Path(bert_extract.__file__).parent

# The way of the data: each module imports only from those above it. `version` is a
# constant and stands anywhere.
ORDER = (
    # the trunk
    "errors",
    "version",
    "doubt",
    "formats",
    "options",
    "files",
    # text
    "text.unpacking",
    "text.examples",
    "text.stamps",
    "text.splits",
    # tokenization
    "tokenization.unicode14_tables",
    "tokenization.unicode14",
    "tokenization.basic_tokenizer",
    "tokenization.alignment",
    "tokenization.long_text",
    "tokenization.tokenizer_config",
    "tokenization.vocab",
    "tokenization.tokenizer",
    # model
    "model.config",
    "model.layer_plan",
    "model.onednn",
    "model.encoder_kernel",
    "model.arithmetic",
    "model.modeling",
    "model.self_check",
    "model.devices",
    "model.pooling",
    # inputs
    "inputs.windows",
    "inputs.features",
    "inputs.line_parts",
    "inputs.batching",
    "inputs.arrivals",
    # checkpoints
    "checkpoints.base",
    "checkpoints.tensors",
    "checkpoints.bundle_index",
    "checkpoints.tensor_bundle",
    "checkpoints.model_garden",
    "checkpoints.safetensors_file",
    "checkpoints.huggingface",
    "checkpoints.opened",
    "checkpoints.loading",
    "checkpoints.model_dir",
    "checkpoints.sentence_model",
    # output
    "output.record",
    "output.json_lines",
    "output.selection",
    "output.contents",
    "output.json_parser",
    "output.record_builder",
    "output.checksum",
    "output.append_file",
    "output.compression",
    "output.limits",
    "output.frames",
    "output.hdf5",
    "output.parquet",
    "output.parts",
    "output.reading",
    "output.pieces",
    "output.fingerprints",
    "output.run_file",
    "output.resumable",
    "output.streams",
    "output.writers",
    # network
    "network.encoder",
    "network.text_inputs",
    "network.vectors",
    # inspecting
    "inspecting.words",
    "inspecting.seeking",
    "inspecting.members",
    "inspecting.json_contents",
    "inspecting.summary",
    "inspecting.lookup",
    "inspecting.nearest",
    "inspecting.contexts",
    "inspecting.plots",
    # the trunk
    "guard",
    "pipeline",
    "work",
    "screen",
    "progress",
    "loaded_model",
    "engine",
    "jobs",
    # cluster
    "cluster.plan",
    "cluster.messages",
    "cluster.worker",
    "cluster.actor",
    "cluster.ray_cluster",
    "cluster.dispatch",
    "cluster.join",
    "cluster.leftovers",
    "cluster.tally",
    "cluster.driver",
    # the trunk
    "extractor",
    "process",
    "parsing",
    "logs",
    "cli",
    "inspect",
    "__main__",
)

# From which other wings a wing imports. The trunk's modules above the first wing are
# everybody's; those below the last one belong to the trunk alone.
WINGS: dict[str, tuple[str, ...]] = {
    "text": (),
    "tokenization": ("text",),
    "model": (),
    "inputs": ("text", "tokenization"),
    "checkpoints": ("tokenization", "model"),
    "output": ("text", "inputs", "model"),
    "network": (*("text", "tokenization", "model", "inputs", "checkpoints", "output"),),
    "inspecting": ("output",),
    "cluster": ("text", "model", "output"),
}
# The wing that does whole jobs, and so stands upon the trunk's rooms that do them.
UPPER_WING = "cluster"

# Nobody waits for TensorFlow who only asks for help or reads records back.
WITH_TENSORFLOW = (
    "model.onednn",
    "model.encoder_kernel",
    "model.modeling",
    "model.self_check",
    "model.devices",
    "checkpoints.base",
    "checkpoints.tensors",
    "checkpoints.bundle_index",
    "checkpoints.tensor_bundle",
    "checkpoints.model_garden",
    "checkpoints.safetensors_file",
    "checkpoints.huggingface",
    "checkpoints.opened",
    "checkpoints.loading",
    "checkpoints.model_dir",
    "checkpoints.sentence_model",
    "network.encoder",
    "network.text_inputs",
    "network.vectors",
    "loaded_model",
    "engine",
    "jobs",
    "cluster.worker",
    "cluster.driver",
    "extractor",
)


def file_of(module: str) -> Path:
    """Finds a module's file: "output.hdf5" -> .../output/hdf5.py."""
    return PACKAGE_DIR.joinpath(*module.split(".")).with_suffix(".py")


def wing_of(module: str) -> str:
    """Names the wing of a module; "" for the trunk."""
    return module.rpartition(".")[0]
