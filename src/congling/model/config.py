"""Section ``[model]`` and the resolved architecture; the presets."""

from typing import Any, Literal

from congling.config import Config, ConfigError, option

PositionMethod = Literal["distance_decay", "distance_decay_heads", "alibi", "rope", "none", "sinusoidal", "learned"]
NormPlacement = Literal["pre", "post"]
FeedForward = Literal["relu_relu", "relu2", "swiglu"]
Preset = Literal["demo", "base-0.18b", "jerry-0.18b"]


class Architecture(Config):
    """Every dial of one transformer, resolved: what ``model.json`` of a model folder holds."""

    vocab_size: int = option(..., "rows of the embedding", gt=0)
    dim: int = option(..., "width of the residual stream", gt=0)
    num_layers: int = option(..., "layers", gt=0)
    num_heads: int = option(..., "attention heads", gt=0)
    head_dim: int = option(..., "width of a head", gt=0)
    ffn_dim: int = option(..., "inner width of the feed-forward", gt=0)
    position: PositionMethod = option(..., "how attention knows distances")
    fastest_decay: float = option(..., "rate that the first head begins with (distance_decay_heads)", gt=0)
    slowest_decay: float = option(..., "rate that the last head begins with", gt=0)
    log_scale_from: int = option(
        ..., "keys beyond which scores grow with ln(keys), as many as training saw; 0: off", ge=0
    )
    max_len: int = option(..., "places that learned positions have; else of no meaning", ge=0)
    norm: NormPlacement = option(..., "RMSNorm before each part (and at the end), or one after each layer")
    qk_norm: bool = option(..., "RMS-normalise queries and keys")
    qk_bias: bool = option(..., "a learned constant vector a head added to queries and to keys")
    affine: bool = option(..., "the seed's learned scalars 100·(x·value + bias) around each matrix")
    talking_heads: bool = option(..., "mix the heads before and after the softmax")
    value_residual: bool = option(..., "values are a learned mix of the layer's own and the first layer's")
    feed_forward: FeedForward = option(..., "activation; relu_relu is the seed's, with a ReLU after the second matrix")
    tie_embeddings: bool = option(..., "one matrix for embedding and head")
    dropout: float = option(..., "share of activations dropped in training", ge=0, lt=1)
    logit_softcap: float = option(..., "c in c·tanh(logit/c); 0: off", ge=0)


_DEMO: dict[str, Any] = {
    "dim": 256,
    "num_layers": 6,
    "num_heads": 4,
    "head_dim": 64,
    "ffn_dim": 1024,
    "position": "distance_decay_heads",
    "fastest_decay": 0.1,
    "slowest_decay": 0.1,
    "log_scale_from": 0,
    "max_len": 0,
    "norm": "pre",
    "qk_norm": False,
    "qk_bias": False,
    "affine": False,
    "talking_heads": False,
    "value_residual": False,
    "feed_forward": "relu2",
    "tie_embeddings": True,
    "dropout": 0.0,
    "logit_softcap": 0.0,
}
PRESETS: dict[str, dict[str, Any]] = {
    "demo": _DEMO,
    # 0.18 B with 65,536 ids; what each dial is worth: docs/training.md.
    "base-0.18b": {
        **_DEMO, "dim": 768, "num_layers": 12, "num_heads": 12, "head_dim": 128, "ffn_dim": 1024,
        "qk_norm": True, "value_residual": True, "feed_forward": "swiglu", "tie_embeddings": False,
    },
    # The seed's model: 768 → 1,536 projections, post-norm, affine scalars, talking heads, untied.
    "jerry-0.18b": {
        **_DEMO, "dim": 768, "num_layers": 12, "num_heads": 12, "head_dim": 128, "ffn_dim": 1536,
        "position": "distance_decay", "norm": "post", "qk_norm": False, "affine": True, "talking_heads": True,
        "feed_forward": "relu_relu", "tie_embeddings": False, "dropout": 0.1, "logit_softcap": 0.0,
    },
}  # fmt: skip


class ModelConfig(Config):
    """A preset, and what differs from it (a key left out is the preset's)."""

    preset: Preset = option("demo", "the model to start from")
    dim: int | None = option(None, "width of the residual stream", gt=0)
    num_layers: int | None = option(None, "layers", gt=0)
    num_heads: int | None = option(None, "attention heads", gt=0)
    head_dim: int | None = option(None, "width of a head; even", gt=0, multiple_of=2)
    ffn_dim: int | None = option(None, "inner width of the feed-forward", gt=0)
    position: PositionMethod | None = option(None, "how attention knows distances")
    fastest_decay: float | None = option(None, "rate that the first head begins with (distance_decay_heads)", gt=0)
    slowest_decay: float | None = option(None, "rate that the last head begins with; between them geometrically", gt=0)
    log_scale_from: int | None = option(None, "scores × ln(keys)/ln(this) where a query sees more keys; 0: off", ge=0)
    max_len: int | None = option(None, "places that learned positions have", ge=0)
    norm: NormPlacement | None = option(None, "RMSNorm before each part, or after each layer")
    qk_norm: bool | None = option(None, "RMS-normalise queries and keys")
    qk_bias: bool | None = option(None, "a learned constant vector a head, added to queries and to keys")
    affine: bool | None = option(None, "the seed's learned scalars around each matrix")
    talking_heads: bool | None = option(None, "mix the heads before and after the softmax")
    value_residual: bool | None = option(None, "values: a learned mix of the layer's own and the first layer's")
    feed_forward: FeedForward | None = option(None, "activation of the feed-forward")
    tie_embeddings: bool | None = option(None, "one matrix for embedding and head")
    dropout: float | None = option(None, "share of activations dropped in training", ge=0, lt=1)
    logit_softcap: float | None = option(None, "c in c·tanh(logit/c), which bounds the logits; 0: off", ge=0)

    def resolve(self, vocab_size: int) -> Architecture:
        """The preset with this section's changes, for a vocabulary of ``vocab_size`` ids. Raises ConfigError."""
        changes = {k: v for k, v in self.model_dump(exclude={"preset"}).items() if v is not None}
        architecture = Architecture(**{**PRESETS[self.preset], **changes, "vocab_size": vocab_size})
        if (
            architecture.affine and architecture.logit_softcap
        ):  # the loss leaves out the head's bias: a cap would see it
            raise ConfigError(f"model.logit_softcap = {architecture.logit_softcap}: must be 0 together with affine")
        if (architecture.position == "learned") != (architecture.max_len > 0):
            raise ConfigError(
                f"model.max_len = {architecture.max_len}: position=learned wants one ≥ 1, other positions want 0"
            )
        return architecture
