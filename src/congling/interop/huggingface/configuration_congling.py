"""Configuration of a congling model for ``transformers`` (this file is copied beside the exported weights)."""

from typing import Any

from transformers import PretrainedConfig


class CongLingConfig(PretrainedConfig):
    """Sizes under the names that ``transformers`` gives them, and the dials of the architecture.

    position: distance_decay, distance_decay_heads, alibi, rope, none, sinusoidal or learned. max_position_embeddings:
    what training saw; only ``learned`` positions end there. norm: "pre" or "post". feed_forward: relu_relu, relu2 or
    swiglu. affine: the learned scalars A(x) = 100·(x·value + bias) around each matrix.
    """

    model_type = "congling"
    keys_to_ignore_at_inference = ("cache", "past_key_values")

    def __init__(
        self,
        vocab_size: int = 65_536,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        head_dim: int = 128,
        intermediate_size: int = 1536,
        position: str = "distance_decay_heads",
        max_position_embeddings: int = 1024,
        log_scale_from: int = 0,
        norm: str = "pre",
        qk_norm: bool = False,
        qk_bias: bool = False,
        affine: bool = False,
        talking_heads: bool = False,
        value_residual: bool = False,
        feed_forward: str = "relu2",
        dropout: float = 0.0,
        logit_softcap: float = 0.0,
        rms_norm_eps: float = 1e-6,
        initializer_range: float = 0.02,
        use_cache: bool = True,
        tie_word_embeddings: bool = False,
        **others: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_attention_heads
        self.head_dim = head_dim
        self.intermediate_size = intermediate_size
        self.position = position
        self.max_position_embeddings = max_position_embeddings
        self.log_scale_from = log_scale_from
        self.norm = norm
        self.qk_norm = qk_norm
        self.qk_bias = qk_bias
        self.affine = affine
        self.talking_heads = talking_heads
        self.value_residual = value_residual
        self.feed_forward = feed_forward
        self.dropout = dropout
        self.logit_softcap = logit_softcap
        self.rms_norm_eps = rms_norm_eps
        self.initializer_range = initializer_range
        self.use_cache = use_cache
        others.pop("num_key_value_heads", None)
        super().__init__(tie_word_embeddings=tie_word_embeddings, **others)
