"""Section ``[sample]``: how the next token is chosen."""

from congling.config import Config, option


class SampleConfig(Config):
    """Temperature 0 is greedy."""

    temperature: float = option(0.7, "randomness; 0 takes the likeliest token", ge=0, le=10)
    top_k: int = option(0, "only the k likeliest tokens; 0: all", ge=0)
    top_p: float = option(0.9, "only the likeliest tokens that together have this probability", gt=0, le=1)
    repetition_penalty: float = option(0.6, "taken off the logit of each token each time it occurs; 0: none", ge=0)
    repetition_decay: float = option(0.98, "factor on all penalties each step", ge=0, le=1)
    max_tokens: int = option(256, "longest answer, in tokens", gt=0)
    max_context: int = option(2048, "prompt and answer together, in tokens; a chat forgets its oldest turns", gt=1)
    seed: int = option(0, "the same request and seed give the same text", ge=0)
