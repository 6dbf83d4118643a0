"""Section ``[sample]``: how the next token is chosen; section ``[engine]``: the memory and arithmetic behind it."""

from typing import Literal

from congling.config import Config, option

Precision = Literal["auto", "fp32", "bf16", "int8", "int4"]
CacheKind = Literal["auto", "absorbed", "kv"]
CachePrecision = Literal["auto", "fp32", "bf16", "int8"]


class SampleConfig(Config):
    """Temperature 0 is greedy."""

    temperature: float = option(0.7, "randomness; 0 takes the likeliest token", ge=0, le=10)
    top_k: int = option(0, "only the k likeliest tokens; 0: all", ge=0)
    top_p: float = option(0.9, "only the likeliest tokens that together have this probability", gt=0, le=1)
    min_p: float = option(0.0, "only tokens at least this part as likely as the likeliest; 0: all", ge=0, le=1)
    repetition_penalty: float = option(0.6, "taken off the logit of each token each time it occurs; 0: none", ge=0)
    repetition_decay: float = option(0.98, "factor on all penalties each step", ge=0, le=1)
    presence_penalty: float = option(0.0, "taken off the logit of each token the answer has already", ge=-2, le=2)
    frequency_penalty: float = option(0.0, "the same, once for each time the answer has it", ge=-2, le=2)
    no_repeat_ngram: int = option(0, "no run of this many tokens comes twice in prompt and answer; 0: any may", ge=0)
    max_tokens: int = option(256, "longest answer, in tokens", gt=0)
    max_context: int = option(2048, "prompt and answer together, in tokens; a chat forgets its oldest turns", gt=1)
    seed: int = option(0, "the same request and seed give the same text", ge=0)

    def limit(self, prompt_tokens: int) -> int:
        """Tokens that an answer to a prompt of so many may have, at least 1."""
        return max(1, min(self.max_tokens, self.max_context - prompt_tokens))


class EngineConfig(Config):
    """How much memory and which arithmetic generation uses. The absorbed cache is that of EL-attention (Yan et al.
    2021): a layer's input in place of its keys and values."""

    precision: Precision = option("auto", "of the weights; auto: bf16 (in torch on a CPU: what they are in)")
    cache: CacheKind = option("auto", "absorbed (layer inputs), kv (keys and values), or what measured better")
    cache_precision: CachePrecision = option("auto", "of the cache; auto: int8, with fp32 or in torch as the weights")
    memory_mb: int = option(1024, "memory of the cache, a hard limit: requests wait until they fit", gt=0)
    max_batch: int = option(32, "sequences decoding at once", gt=0)
    max_waiting: int = option(1024, "requests that may wait for their turn; more are refused", ge=0)
    prefill_tokens: int = option(256, "prompt tokens computed in one step beside the decoding", gt=0)
    threads: int = option(0, "cores; 0: all", ge=0)
    lookup: int = option(0, "tokens guessed ahead from repetitions (prompt lookup); 0: none", ge=0, le=64)
    prefix_reuse: bool = option(True, "prompts that begin as others did take over what was computed for them")
