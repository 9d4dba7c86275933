"""The small BERT that tests of checkpoints save and load."""

from bert_extract.model.config import BertConfig

CONFIG = BertConfig(
    vocab_size=50,
    hidden_size=8,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=32,
    hidden_act="gelu",
    max_position_embeddings=16,
    type_vocab_size=2,
)
WORDS = "bert/embeddings/word_embeddings"
QUERY = "bert/encoder/layer_2/attention/self/query/kernel"
