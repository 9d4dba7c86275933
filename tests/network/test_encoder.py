"""BertEncoder: the command's vectors, in a model that Keras trains, saves and loads."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from bert_extract import BertEncoder, BertInputs, FeatureExtractor
from bert_extract.errors import ArgumentTypeError, BertExtractError, OptionsError
from bert_extract.model.config import BertConfig, variable_shapes
from support.running import REPOSITORY, TIMEOUT

# Keras reads its variables in a way that NumPy 2 warns of.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)

SAMPLE = (REPOSITORY / "sample_data" / "input.txt").read_text(encoding="utf-8")
LINES = SAMPLE.splitlines()
TOLERANCE = 2e-5

CONFIG = BertConfig(
    vocab_size=20,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=16,
    hidden_act="gelu",
    max_position_embeddings=8,
    type_vocab_size=2,
)
# [CLS] and two texts of one wordpiece each; one text of two.
IDS: dict[str, Any] = {
    "input_ids": np.array([[2, 5, 3, 7, 3], [2, 8, 9, 3, 0]]),
    "input_mask": np.array([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]),
    "token_type_ids": np.array([[0, 0, 0, 1, 1], [0, 0, 0, 0, 0]]),
}
# Softmax is the same whatever all keys have in common, so nothing tells what it should
# be.
HAS_NO_GRADIENT = "key.bias"


@pytest.fixture
def step_by_step() -> Iterator[None]:
    """Nothing is traced, which takes a second for each gradient."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def small(**kwargs: Any) -> Any:
    """A layer with weights so large that everything in it tells."""
    encoder: Any = BertEncoder(CONFIG, seed=1, **kwargs)
    encoder.build()
    encoder.build()  # as Keras may
    random = np.random.default_rng(0)
    encoder.set_weights(
        [random.normal(0.2, 0.5, variable.shape) for variable in encoder.weights]
    )
    return encoder


def arrays_of(extractor: FeatureExtractor) -> list[NDArray[np.float32]]:
    return [record.vectors for record in extractor.extract(LINES)]


def assert_are_vectors(
    found: NDArray[np.float32], expected: Sequence[NDArray[np.float32]]
) -> None:
    """found: [B, L, S, H], padded; expected: [L, T, H] each."""
    assert len(found) == len(expected)
    for line, vectors in zip(found, expected, strict=True):
        num_tokens = vectors.shape[1]
        np.testing.assert_allclose(
            line[:, :num_tokens], vectors, rtol=0, atol=TOLERANCE
        )


# --------------------------------------------------------------- the command's vectors


@pytest.mark.parametrize(
    "family", ["tiny_bert", pytest.param("minilm_dir", marks=pytest.mark.slow)]
)
def test_the_vectors_of_tokens_are_the_commands(
    family: str, request: pytest.FixtureRequest
) -> None:
    model_dir: Path = request.getfixturevalue(family)
    layers: Any = ["embeddings", 0, -1]
    inputs = BertInputs.from_model_dir(model_dir, max_seq_length=16)
    encoder: Any = BertEncoder.from_model_dir(model_dir, layers=layers)
    extractor = FeatureExtractor(model_dir=model_dir, layers=layers, max_seq_length=16)
    assert_are_vectors(encoder(inputs(LINES)).numpy(), arrays_of(extractor))


@pytest.mark.slow
@pytest.mark.parametrize("layer_pooling", ["mean", "sum", "concat"])
def test_layers_are_mixed_as_in_the_command(
    layer_pooling: str, tiny_bert: Path
) -> None:
    fields: dict[str, Any] = {"layers": [-1, 0], "layer_pooling": layer_pooling}
    encoder: Any = BertEncoder.from_model_dir(tiny_bert, **fields)
    inputs = BertInputs.from_model_dir(tiny_bert, max_seq_length=64)
    extractor = FeatureExtractor(model_dir=tiny_bert, max_seq_length=64, **fields)
    found = encoder(inputs(LINES)).numpy()[:, np.newaxis]
    assert_are_vectors(found, arrays_of(extractor))


@pytest.mark.parametrize(
    "fields",
    [
        {"pooling": "mean", "layers": [-1, 0]},
        pytest.param({"pooling": "max"}, marks=pytest.mark.slow),
        pytest.param(
            {"pooling": "cls", "layers": [-1, -2], "layer_pooling": "concat"},
            marks=pytest.mark.slow,
        ),
        pytest.param({"pooling": "pooler"}, marks=pytest.mark.slow),
    ],
    ids=lambda fields: fields["pooling"],
)
def test_sentences_are_the_commands(fields: dict[str, Any], tiny_bert: Path) -> None:
    encoder: Any = BertEncoder.from_model_dir(tiny_bert, **fields)
    inputs = BertInputs.from_model_dir(tiny_bert, max_seq_length=64)
    found = encoder(inputs(LINES)).numpy()
    rest = {name: value for name, value in fields.items() if name != "pooling"}
    if fields["pooling"] != "pooler":
        rest.setdefault("layers", -1)
    extractor = FeatureExtractor(
        model_dir=tiny_bert,
        max_seq_length=64,
        unit="sentence",
        sentence_pooling=fields["pooling"],
        **rest,
    )
    expected = [vectors[:, 0] for vectors in arrays_of(extractor)]
    found = found.reshape(np.shape(expected))
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.slow
def test_a_model_of_sentence_transformers_pools_as_its_folder_says(
    minilm_dir: Path, tmp_path: Path
) -> None:
    for path in minilm_dir.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "modules.json").unlink(missing_ok=True)
    (tmp_path / "modules.json").write_text(
        '[{"path": "", "type": "sentence_transformers.models.Transformer"},'
        ' {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},'
        ' {"path": "2", "type": "sentence_transformers.models.Normalize"}]'
    )
    if not (tmp_path / "1_Pooling").exists():
        (tmp_path / "1_Pooling").mkdir()
        (tmp_path / "1_Pooling" / "config.json").write_text(
            '{"word_embedding_dimension": 384, "pooling_mode_mean_tokens": true}'
        )
    encoder: Any = BertEncoder.from_model_dir(tmp_path, pooling="model")
    found = encoder(BertInputs.from_model_dir(tmp_path)(LINES)).numpy()
    extractor = FeatureExtractor(
        model_dir=tmp_path, unit="sentence", sentence_pooling="model"
    )
    expected = [vectors[0, 0] for vectors in arrays_of(extractor)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
    again = BertEncoder.from_config(encoder.get_config())
    assert again.get_config() == encoder.get_config()


@pytest.mark.usefixtures("step_by_step")
def test_a_frozen_layer_gives_the_same_vectors_in_training() -> None:
    encoder = small(trainable=False, hidden_dropout_prob=0.5)
    np.testing.assert_array_equal(encoder(IDS, training=True), encoder(IDS))


# -------------------------------------------------------------------------- training


def gradients(encoder: Any) -> dict[str, Any]:
    """Of the sum of squares of what it gives, by the names of the variables."""
    with tf.GradientTape() as tape:
        # The last LayerNorm makes the plain sum of squares of a row a constant.
        vectors = tf.cast(encoder(IDS, training=True), tf.float32)
        loss = tf.reduce_sum(vectors**2 * tf.range(8, dtype=tf.float32))
    values = [variable.value for variable in encoder.weights]
    found = tape.gradient(loss, values, unconnected_gradients="zero")
    return dict(zip([v.name for v in encoder.weights], found, strict=True))


def reached(encoder: Any) -> set[str]:
    return {
        name
        for name, gradient in gradients(encoder).items()
        if float(tf.reduce_max(tf.abs(tf.convert_to_tensor(gradient)))) > 1e-5
        and not name.endswith(HAS_NO_GRADIENT)
    }


@pytest.mark.usefixtures("step_by_step")
@pytest.mark.parametrize(
    ("pooling", "dtype"),
    [("none", "float32"), ("pooler", "float32"), ("mean", "mixed_float16")],
)
def test_gradients_reach_every_variable(pooling: str, dtype: str) -> None:
    encoder = small(pooling=pooling, dtype=dtype)
    shapes = variable_shapes(CONFIG, with_pooler=pooling == "pooler")
    names = {name.replace("/", ".") for name in shapes}
    assert {variable.name for variable in encoder.trainable_variables} == names
    assert names - reached(encoder) == {
        f"bert.encoder.layer_{number}.attention.self.{HAS_NO_GRADIENT}"
        for number in range(2)
    }


def test_no_gradient_reaches_what_is_frozen() -> None:
    encoder = small()
    everything = reached(encoder)
    assert len(everything) == len(encoder.weights) - CONFIG.num_hidden_layers
    encoder.trainable = False
    assert (reached(encoder), encoder.trainable_variables) == (set(), [])
    encoder.trainable = True  # it was traced without gradients, and is traced again
    assert reached(encoder) == everything


@pytest.mark.usefixtures("step_by_step")
@pytest.mark.parametrize("num_trained_layers", [0, 1, 2])
def test_the_highest_layers_are_trained_alone(num_trained_layers: int) -> None:
    encoder = small(num_trained_layers=num_trained_layers)
    numbers = {name.split(".")[2] for name in reached(encoder)}
    assert numbers == {f"layer_{1 - i}" for i in range(num_trained_layers)}


def test_layers_above_the_highest_one_are_left_out() -> None:
    encoder = small(layers=[0, "embeddings"])
    scopes = {variable.name.split(".")[2] for variable in encoder.weights}
    assert scopes & {"layer_0", "layer_1"} == {"layer_0"}


@pytest.mark.usefixtures("step_by_step")
def test_training_leaves_values_out_at_random() -> None:
    one, other = small(), small()
    first, second = one(IDS, training=True), one(IDS, training=True)
    assert np.abs(first - second).max() > 0.1
    np.testing.assert_array_equal(other(IDS, training=True), first)  # the same seed
    plain = small(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    np.testing.assert_array_equal(plain(IDS, training=True), plain(IDS))


@pytest.mark.usefixtures("step_by_step")
@pytest.mark.parametrize(
    "rate", ["hidden_dropout_prob", "attention_probs_dropout_prob"]
)
def test_each_rate_leaves_something_out(rate: str) -> None:
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    encoder = small(**{**rates, rate: 0.5})
    assert np.abs(encoder(IDS, training=True) - encoder(IDS)).max() > 0.01


def test_the_rates_are_the_configs(tiny_bert: Path, tmp_path: Path) -> None:
    for path in tiny_bert.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config_file = tmp_path / "bert_config.json"
    text = config_file.read_text(encoding="utf-8").rstrip().removesuffix("}")
    config_file.write_text(
        f'{text}, "hidden_dropout_prob": 0.25, "attention_probs_dropout_prob": 0}}'
    )
    config = BertEncoder.from_model_dir(tmp_path, layers=0).get_config()
    assert config["hidden_dropout_prob"] == 0.25
    assert config["attention_probs_dropout_prob"] == 0.0


def classifier(encoder: Any, dtype: str | None = None) -> Any:
    inputs = BertEncoder.make_inputs()
    logits = keras.layers.Dense(2, dtype="float32")(encoder(inputs))
    return keras.Model(inputs, logits)


def compiled(model: Any, learning_rate: float = 0.05) -> Any:
    optimizer: Any = keras.optimizers.SGD(learning_rate)
    if model.layers[-2].dtype_policy.name == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss)
    return model


@pytest.mark.slow
def test_one_step_of_fine_tuning_lowers_the_loss_on_real_text(minilm_dir: Path) -> None:
    inputs = BertInputs.from_model_dir(minilm_dir)
    encoder: Any = BertEncoder.from_model_dir(
        minilm_dir, layers=1, pooling="mean", hidden_dropout_prob=0.0
    )
    labels = np.array(["bank" in line for line in LINES], np.int32)
    assert 0 < labels.sum() < len(labels)
    model = classifier(encoder)
    model.layers[-1].trainable = False  # so it is the encoder that learns
    compiled(model)
    before = [variable.numpy() for variable in encoder.weights]
    batch = inputs(LINES)
    loss = float(model.evaluate(batch, labels, batch_size=12, verbose=0))
    model.train_on_batch(batch, labels)
    assert float(model.evaluate(batch, labels, batch_size=12, verbose=0)) < loss - 1e-3
    changed = [
        not np.array_equal(variable.numpy(), value)
        for variable, value in zip(encoder.weights, before, strict=True)
    ]
    assert sum(changed) >= len(changed) - 2  # the keys' biases


@pytest.mark.parametrize(
    "dtype", ["mixed_float16", pytest.param("mixed_bfloat16", marks=pytest.mark.slow)]
)
def test_mixed_precision_is_trained(dtype: str) -> None:
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    encoder = small(pooling="cls", dtype=dtype, layers=0, **rates)
    model = compiled(classifier(encoder))
    labels = np.array([0, 1])
    losses = model.fit(IDS, labels, epochs=8, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert {variable.dtype for variable in encoder.weights} == {"float32"}
    vectors = encoder(IDS)
    assert vectors.dtype == encoder.compute_dtype == dtype.removeprefix("mixed_")
    whole = small(pooling="cls", layers=0)
    whole.set_weights(encoder.get_weights())
    np.testing.assert_allclose(tf.cast(vectors, tf.float32), whole(IDS), atol=0.05)


# ------------------------------------------------------------------- save, load, masks


@pytest.mark.usefixtures("step_by_step")
@pytest.mark.parametrize(
    "fields",
    [
        {"pooling": "mean", "num_trained_layers": 1},
        {"pooling": "pooler", "trainable": False},
        {"pooling": "cls", "layers": ["embeddings", 1], "layer_pooling": "concat"},
    ],
    ids=lambda fields: fields["pooling"],
)
def test_a_saved_model_gives_the_same_predictions(
    fields: dict[str, Any], tmp_path: Path
) -> None:
    encoder = small(**fields)
    model = classifier(encoder)
    path = str(tmp_path / "model.keras")
    model.save(path)
    again = keras.models.load_model(path)
    np.testing.assert_array_equal(again(IDS), model(IDS))
    assert again.layers[-2].get_config() == encoder.get_config()
    assert len(again.trainable_variables) == len(model.trainable_variables)


LOAD = """
import sys
from bert_extract import BertEncoder
import keras, numpy as np
model = keras.models.load_model(sys.argv[1])
np.save(sys.argv[3], model.predict(dict(np.load(sys.argv[2])), verbose=0))
"""


@pytest.mark.slow
def test_a_saved_model_needs_no_folder_and_no_more_than_the_name(
    tmp_path: Path,
) -> None:
    model = classifier(small(pooling="mean"))
    names = [str(tmp_path / name) for name in ("model.keras", "ids.npz", "found.npy")]
    model.save(names[0])
    np.savez(names[1], **IDS)
    subprocess.run(
        [sys.executable, "-c", LOAD, *names], check=True, timeout=TIMEOUT, cwd=tmp_path
    )
    found = np.load(names[2])
    np.testing.assert_allclose(found, model.predict(IDS, verbose=0), atol=1e-6)


@pytest.mark.usefixtures("step_by_step")
def test_layers_behind_it_see_the_mask() -> None:
    encoder = small()
    inputs = BertEncoder.make_inputs()
    pooled = keras.layers.GlobalAveragePooling1D()(encoder(inputs))
    found = keras.Model(inputs, pooled)(IDS)
    vectors = np.asarray(encoder(IDS))
    np.testing.assert_allclose(found[1], vectors[1, :4].mean(axis=0), atol=1e-6)


@pytest.mark.usefixtures("step_by_step")
@pytest.mark.parametrize(
    ("fields", "shape"),
    [
        ({}, (2, 5, 8)),
        ({"layers": "all"}, (2, 2, 5, 8)),
        ({"layers": [-1, -2], "layer_pooling": "concat"}, (2, 5, 16)),
        ({"layers": [-1, -2], "pooling": "max"}, (2, 2, 8)),
        ({"pooling": "pooler"}, (2, 8)),
    ],
)
def test_the_shape_is_known_before_it_is_computed(
    fields: dict[str, Any], shape: tuple[int, ...]
) -> None:
    encoder = small(**fields)
    symbolic = {name: keras.Input(batch_shape=(2, 5), dtype="int32") for name in IDS}
    assert encoder(symbolic).shape == encoder(IDS).shape == shape


# --------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: small(layers=2), OptionsError, "the model has 2 encoder layers"),
        (lambda: small(pooling="avg"), OptionsError, "must be one of mean, cls"),
        (lambda: small(pooling="model"), ArgumentTypeError, "from_model_dir"),
        (
            lambda: small(pooling="pooler", layers=0),
            OptionsError,
            "no layers to choose",
        ),
        (lambda: small(num_trained_layers=3), ArgumentTypeError, "from 0 to 2"),
        (lambda: small(hidden_dropout_prob=1.0), ArgumentTypeError, "found 1.0"),
        (lambda: BertEncoder({"size": 3}), ArgumentTypeError, "get_config gives it"),
        (lambda: small()(IDS["input_ids"]), ArgumentTypeError, "takes a dict of input"),
    ],
)
def test_what_cannot_work_is_refused(
    make: Callable[[], object], kind: type[BertExtractError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        make()
