"""A sentence-transformers model pools as its own files say, and as its library does."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from absl import logging
from numpy.typing import NDArray

from bert_extract import FeatureExtractor, Options, OutputError, Record
from bert_extract.checkpoints.sentence_model import read_sentence_model
from bert_extract.errors import ConfigError
from bert_extract.model.pooling import SentencePooling
from support.make_checkpoints import read_tf1_checkpoint
from support.reference_model import run_bert

TEXTS = (
    "The river bank is wet.",
    "",
    "Who was Jim Henson ? ||| Jim Henson was a puppeteer",
    "unaffable " * 60,
)
MODULES = ("Transformer", "Pooling", "Normalize")
MODE_KEYS = {"mean": "mean_tokens", "max": "max_tokens", "cls": "cls_token"}


def modules_of(*kinds: str, transformer: str = "") -> list[dict[str, Any]]:
    """What the library writes into modules.json."""
    places = {"Transformer": transformer}
    return [
        {
            "idx": number,
            "name": str(number),
            "path": places.get(kind, f"{number}_{kind}"),
            "type": f"sentence_transformers.models.{kind}",
        }
        for number, kind in enumerate(kinds)
    ]


def mode_of(*modes: str) -> dict[str, Any]:
    """What it writes into 1_Pooling/config.json."""
    keys = {f"pooling_mode_{key}": mode in modes for mode, key in MODE_KEYS.items()}
    return {"word_embedding_dimension": 384, **keys, "include_prompt": True}


def write_files(
    folder: Path,
    modules: object = (),
    pooling: object = None,
    transformer: object = None,
    prompts: object = None,
) -> str:
    (folder / "1_Pooling").mkdir(exist_ok=True)
    for name, content in (
        ("modules.json", modules or modules_of(*MODULES)),
        ("1_Pooling/config.json", pooling or mode_of("mean")),
        ("sentence_bert_config.json", transformer),
        ("config_sentence_transformers.json", prompts),
    ):
        if content is not None:
            (folder / name).write_text(json.dumps(content))
    return str(folder)


# ------------------------------------------------------------------- what files say


@pytest.mark.parametrize(
    ("kinds", "pooling", "expected"),
    [
        (MODULES, mode_of("mean"), ("mean", True)),
        (MODULES[:2], mode_of("mean"), ("mean", False)),
        (MODULES[:2], mode_of("cls"), ("cls", False)),
        (MODULES, mode_of("max"), ("max", True)),
        # The mean is the library's default; newer versions have one key for all.
        (MODULES, {"word_embedding_dimension": 384}, ("mean", True)),
        (MODULES, {"embedding_dimension": 384, "pooling_mode": "cls"}, ("cls", True)),
        (MODULES, {"pooling_mode": ["max"]}, ("max", True)),
        (MODULES, mode_of("mean") | {"pooling_mode_lasttoken": False}, ("mean", True)),
    ],
)
def test_what_the_folder_says(
    tmp_path: Path,
    kinds: tuple[str, ...],
    pooling: dict[str, Any],
    expected: tuple[str, bool],
) -> None:
    folder = write_files(tmp_path, modules_of(*kinds), pooling)
    for model_dir in (folder, folder + "/"):
        found = read_sentence_model(model_dir, True, 128)
        mode, is_normalized = expected
        assert found.pooling == SentencePooling(mode, True, is_normalized)
        assert found.warnings == ()


def test_classes_may_stand_in_modules_of_their_own(tmp_path: Path) -> None:
    modules = modules_of(*MODULES, transformer="0_Transformer")
    for module in modules:
        module["type"] = f"sentence_transformers.a.b.{module['type'].split('.')[-1]}"
    folder = write_files(tmp_path, modules)
    assert read_sentence_model(folder, True, 128).pooling.mode == "mean"


DENSE = modules_of("Transformer", "Pooling", "Dense", "Normalize")
SQUARE_ROOT = mode_of() | {"pooling_mode_mean_sqrt_len_tokens": True}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"modules": DENSE}, 'module 2 is "sentence_transformers.models.Dense": -'),
        ({"modules": modules_of("Transformer")}, "a Transformer and a Pooling"),
        ({"modules": modules_of("Pooling")}, "module 0 is "),
        ({"modules": modules_of(*MODULES, "Normalize")}, "module 3 is "),
        ({"modules": modules_of("Transformer", "LSTM", "Pooling")}, "module 1 is "),
        ({"modules": [{"type": "evil.Transformer", "path": ""}]}, 'is "evil.Transform'),
        ({"modules": [3]}, 'expected an object with a "type" and a "path"; found 3'),
        ({"modules": {"a": 1}}, 'expected a JSON list; found {"a": 1}'),
        (
            {"modules": modules_of(*MODULES, transformer="x")},
            'the Transformer in the folder itself, or in 0_Transformer; found "x',
        ),
        (
            {"pooling": mode_of("mean", "cls")},
            "one way of pooling, cls, max, mean; found",
        ),
        ({"pooling": mode_of()}, "found [], which --sentence_pooling=model does not"),
        ({"pooling": SQUARE_ROOT}, 'found ["pooling_mode_mean_sqrt_len_tokens"]'),
        ({"pooling": {"pooling_mode": "weightedmean"}}, 'found ["weightedmean"]'),
        ({"pooling": {"pooling_mode": 3}}, "found 3"),
        ({"pooling": {"pooling_mode": [["cls"]]}}, 'found [["cls"]]'),
        ({"pooling": mode_of() | {"pooling_mode_x": "yes"}}, 'found {"pooling_mode_x"'),
        (
            {"pooling": mode_of("mean") | {"new": 1}},
            'found {"new": 1}, which is not known',
        ),
        ({"pooling": [1]}, "1_Pooling/config.json: expected a JSON object; found [1]"),
        ({"transformer": {"do_lower_case": True}}, "the tokenizer is a cased one"),
        (
            {
                "prompts": {"prompts": {"q": "query: "}, "default_prompt_name": "q"},
                "pooling": mode_of("mean") | {"include_prompt": False},
            },
            'puts "query: " before each text, and ',
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused(
    tmp_path: Path, files: dict[str, Any], message: str
) -> None:
    folder = write_files(tmp_path, **files)
    with pytest.raises(ConfigError) as caught:
        read_sentence_model(folder, False, 128)
    assert message in str(caught.value)
    assert str(caught.value).startswith(folder)


def test_a_model_that_says_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"modules.json: .* no such file: it is not a sentence-t"
    ):
        read_sentence_model(str(tmp_path), True, 128)
    write_files(tmp_path)
    (tmp_path / "1_Pooling" / "config.json").unlink()
    with pytest.raises(ConfigError, match="download the whole folder again"):
        read_sentence_model(str(tmp_path), True, 128)


def test_what_the_library_does_besides_is_said(tmp_path: Path) -> None:
    folder = write_files(
        tmp_path,
        transformer={"max_seq_length": 256, "do_lower_case": True},
        prompts={"prompts": {"q": "query: "}, "default_prompt_name": "q"},
    )
    found = read_sentence_model(folder, True, 128)
    assert found.warnings == (
        f"{folder}/config_sentence_transformers.json: sentence-transformers puts "
        '"query: " before each text; here it has to stand in the lines',
        f"{folder}/sentence_bert_config.json: sentence-transformers cuts texts at 256 "
        "wordpieces, and --max_seq_length is 128: longer texts get other vectors",
    )
    write_files(tmp_path, prompts={"prompts": {"q": "x"}, "default_prompt_name": None})
    assert read_sentence_model(folder, True, 256).warnings == ()


# ------------------------------------------------------------- what the vectors are


def library_pooling(
    token_embeddings: NDArray[Any], mode: str, is_normalized: bool
) -> NDArray[Any]:
    """What the library's Pooling and Normalize compute of one text's tokens [T, H]."""
    if mode == "cls":
        vector = token_embeddings[0]
    elif mode == "max":
        vector = token_embeddings.max(axis=0)
    else:
        mask = np.ones((len(token_embeddings), 1))
        vector = (token_embeddings * mask).sum(axis=0) / max(mask.sum(), 1e-9)
    if is_normalized:
        vector = vector / max(np.linalg.norm(vector), 1e-12)
    return np.asarray(vector)


@pytest.fixture(scope="module")
def copy_of(minilm_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MiniLM in a folder whose small files may be written."""
    folder = tmp_path_factory.mktemp("minilm") / "model"
    shutil.copytree(minilm_dir, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "model.safetensors").symlink_to(minilm_dir / "model.safetensors")
    return folder


def extract(model_dir: Path, **options: Any) -> list[Record]:
    return list(FeatureExtractor(model_dir=str(model_dir), **options).extract(TEXTS))


def check(found: list[Record], pieces: list[Record], mode: str, norm: bool) -> None:
    assert len(found) == len(pieces) == len(TEXTS)
    for sentence, line in zip(found, pieces, strict=True):
        (vector,), (tokens,) = sentence.layers, line.layers
        assert sentence.tokens == ("[MODEL]",)
        assert sentence.indexes == (-1,)
        expected = library_pooling(tokens.astype(np.float64), mode, norm)
        np.testing.assert_allclose(vector, [expected], rtol=0, atol=1e-6)
        if norm:
            assert abs(np.linalg.norm(vector) - 1) < 1e-6


MODEL: dict[str, Any] = {"unit": "sentence", "sentence_pooling": "model"}
WINDOW = {"long_text": "window", "max_seq_length": 32}


@pytest.mark.parametrize("window", [{}, WINDOW], ids=["cut", "window"])
def test_minilm_is_the_mean_of_all_tokens_normalized(
    minilm_dir: Path, window: dict[str, Any]
) -> None:
    pieces = extract(minilm_dir, layers="-1", **window)
    check(extract(minilm_dir, **MODEL, **window), pieces, "mean", True)


@pytest.mark.parametrize(("mode", "is_normalized"), [("max", True), ("cls", False)])
def test_other_ways_of_pooling(copy_of: Path, mode: str, is_normalized: bool) -> None:
    modules = modules_of(*MODULES[: 2 + is_normalized])
    write_files(copy_of, modules, mode_of(mode))
    check(extract(copy_of, **MODEL), extract(copy_of, layers="-1"), mode, is_normalized)


def test_minilm_is_what_the_library_computes_in_float64(
    minilm_dir: Path, minilm_tf1: Path
) -> None:
    """The whole way, with a BERT and a pooling that share no code with ours."""
    config = json.loads((minilm_tf1 / "bert_config.json").read_bytes())
    vocab = (minilm_tf1 / "vocab.txt").read_text(encoding="utf-8").split("\n")
    ids = {token: number for number, token in enumerate(vocab)}
    weights = read_tf1_checkpoint(minilm_tf1 / "bert_model.ckpt")
    sentences = extract(minilm_dir, **MODEL)
    pieces = extract(minilm_dir, layers="-1")
    for sentence, line in zip(sentences[:3], pieces[:3], strict=True):
        len_a = line.tokens.index("[SEP]") + 1
        output = run_bert(
            weights,
            config,
            [ids[token] for token in line.tokens],
            [0] * len_a + [1] * (len(line.tokens) - len_a),
            hidden_act="gelu_erf",
        )
        expected = library_pooling(output.layers[-1], "mean", True)
        np.testing.assert_allclose(sentence.layers[0], [expected], rtol=0, atol=2e-5)


def test_another_mean_is_said_to_be_another(
    minilm_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logging.set_verbosity(logging.INFO)
    caplog.set_level("INFO", logger="absl")
    extract(minilm_dir, unit="sentence", layers="-1")
    assert "--sentence_pooling=model takes the model's own" in caplog.text
    caplog.clear()
    extract(minilm_dir, **MODEL)
    assert "--sentence_pooling" not in caplog.text
    assert "cuts texts at 256 wordpieces" in caplog.text


def test_a_model_that_pools_otherwise_is_another(copy_of: Path, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("the river\n")
    names = str(tmp_path / "in.txt"), str(tmp_path / "out.jsonl")

    def make() -> FeatureExtractor:
        return FeatureExtractor(Options(model_dir=str(copy_of), **MODEL))

    write_files(copy_of, pooling=mode_of("mean"))
    make().extract_file(*names)
    assert make().extract_file(*names, resume=True).resumed_lines == 1
    write_files(copy_of, pooling=mode_of("cls"))
    with pytest.raises(OutputError, match="how the model pools, by its own files, was"):
        make().extract_file(*names, resume=True)
