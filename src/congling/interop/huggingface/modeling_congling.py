"""A congling model for ``transformers``: all of it in this file, which is copied beside the exported weights.

Made for ``AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)``; needs torch and transformers alone.
The same model as ``congling.model.transformer``, written for reading and for the library's cache (a test of congling
holds the two equal). Letters: B batch, H heads, Q queries, T keys, K head width, D model width, V vocabulary.
"""

import math
from dataclasses import fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from .configuration_congling import CongLingConfig

# The library renamed "past_key_values" to "cache"; both names are taken as arguments here, and results have its own.
_CACHE = "cache" if "cache" in {field.name for field in fields(CausalLMOutputWithPast)} else "past_key_values"


class CongLingRMSNorm(nn.Module):
    """x / √(mean(x²) + ε), in float32, times a weight."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return unit_rms(x, self.eps) * self.weight


def unit_rms(x: Tensor, eps: float) -> Tensor:
    """x / √(mean(x²) + ε) over the last axis, in float32, in the type of x."""
    y = x.float()
    return (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


class CongLingAffine(nn.Module):
    """A(x) = 100·(x·value + bias), two learned numbers; starts as x·gain."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = gain
        self.value = nn.Parameter(torch.full((1,), gain / 100))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return 100 * (x * self.value + self.bias)


class CongLingLinear(nn.Linear):
    """A matrix without bias, and where the model has them the affine scalars: W·A(x) ("before") or A(Wx)."""

    def __init__(self, columns: int, rows: int, affine: bool, before: bool = False) -> None:
        super().__init__(columns, rows, bias=False)
        self.affine = CongLingAffine() if affine else None
        self.before = before

    def forward(self, x: Tensor) -> Tensor:
        if self.affine is None:
            return F.linear(x, self.weight)
        return F.linear(self.affine(x), self.weight) if self.before else self.affine(F.linear(x, self.weight))


class CongLingPosition(nn.Module):
    """How attention knows distances: factors and summands of the scores, or queries and keys that turn (rope).

    distance_decay: s / (1 + r·(i − j)) − c for j < i, with r and c learned, one each a layer, or (…_heads) a head.
    """

    def __init__(self, config: CongLingConfig) -> None:
        super().__init__()
        self.kind, self.num_heads = config.position, config.num_attention_heads
        if self.kind == "distance_decay":
            self.rate = nn.Parameter(torch.full((1,), 0.1))
            self.offset = nn.Parameter(torch.ones(1))
        elif self.kind == "distance_decay_heads":
            self.log_rate = nn.Parameter(torch.full((self.num_heads,), math.log(0.1)))
            self.offset = nn.Parameter(torch.ones(self.num_heads))

    def forward(self, scores: Tensor, distance: Tensor) -> Tensor:
        """scores: [B, H, Q, T] float32; distance: [Q, T], query minus key, 0 in the future."""
        if self.kind == "alibi":
            slopes = 2.0 ** (-8 * torch.arange(1, self.num_heads + 1, device=scores.device) / self.num_heads)
            return scores - slopes[:, None, None] * distance
        if not self.kind.startswith("distance_decay"):
            return scores
        rate = (self.rate if self.kind == "distance_decay" else self.log_rate.exp()).float()
        decay = 1 + rate[:, None, None] * distance
        return scores / decay - self.offset.float()[:, None, None] * (distance > 0)

    def rotate(self, x: Tensor, places: Tensor) -> Tensor:
        """x: [B, H, Q, K]; places: [B or 1, Q]."""
        if self.kind != "rope":
            return x
        half = x.shape[-1] // 2
        frequency = 10_000.0 ** (-torch.arange(half, device=x.device) / half)
        angle = places[:, None, :, None] * frequency  # [B, 1, Q, K/2]
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        first, second = x.split(half, dim=-1)
        return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


class CongLingAttention(nn.Module):
    """Multi-head attention with every dial of the configuration."""

    def __init__(self, config: CongLingConfig, number: int) -> None:
        super().__init__()
        heads, size = config.num_attention_heads, config.head_dim
        self.config, self.number, self.num_heads, self.head_dim = config, number, heads, size
        self.query = CongLingLinear(config.hidden_size, heads * size, config.affine)
        self.key = CongLingLinear(config.hidden_size, heads * size, config.affine)
        self.value = CongLingLinear(config.hidden_size, heads * size, config.affine)
        self.out = CongLingLinear(heads * size, config.hidden_size, config.affine)
        self.position = CongLingPosition(config)
        if config.value_residual and number > 0:  # shares of own values and of the first layer's
            self.value_mix = nn.Parameter(torch.tensor([0.5, 0.5]))
        if config.qk_bias:
            self.query_bias = nn.Parameter(torch.zeros(heads * size))
            self.key_bias = nn.Parameter(torch.zeros(heads * size))
        if config.talking_heads:
            self.talking_before = nn.Parameter(torch.eye(heads))
            self.talking_after = nn.Parameter(torch.eye(heads))

    def forward(
        self, x: Tensor, allowed: Tensor, distance: Tensor, places: Tensor, cache: Cache | None, first: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x: [B, Q, D] -> the same, this layer's own values [B, H, Q, K], attention weights [B, H, Q, T].

        allowed: [B or 1, 1, Q, T] true where a query may look. first: the values of the first layer.
        """
        q, k, own = (self._heads(project(x)) for project in (self.query, self.key, self.value))  # [B, H, Q, K]
        if self.config.qk_norm:
            q, k = unit_rms(q, self.config.rms_norm_eps), unit_rms(k, self.config.rms_norm_eps)
        if self.config.qk_bias:
            q = q + self.query_bias.view(self.num_heads, 1, self.head_dim)
            k = k + self.key_bias.view(self.num_heads, 1, self.head_dim)
        q, k = self.position.rotate(q, places), self.position.rotate(k, places)
        v = own if first is None else self.value_mix[0] * own + self.value_mix[1] * first
        if cache is not None:
            keys = allowed.shape[-1]  # of which a static cache returns more
            where = {"cache_position": torch.arange(keys - x.shape[1], keys, device=x.device)}  # asked for by 4.x alone
            k, v = (part[:, :, :keys] for part in cache.update(k, v, self.number, where))  # [B, H, T, K]
        scores = self.position((q @ k.mT).float() * self.head_dim**-0.5, distance)  # [B, H, Q, T]
        if self.config.log_scale_from:  # scores grow with ln(keys) beyond as many keys as training saw
            seen = allowed.sum(-1, keepdim=True).clamp(min=1)
            scores = scores * (seen.log() / math.log(self.config.log_scale_from)).clamp(min=1)
        if self.config.talking_heads:
            scores = torch.einsum("gh,bhqt->bgqt", self.talking_before.float(), scores)
        weights = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min).softmax(-1)
        if self.config.talking_heads:
            weights = torch.einsum("gh,bhqt->bgqt", self.talking_after.float(), weights)
        y = weights.to(v.dtype) @ v
        return self.out(y.transpose(1, 2).flatten(2)), own, weights  # [B, Q, D]

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)  # [B, Q, H·K] -> [B, H, Q, K]


class CongLingFeedForward(nn.Module):
    """down(relu(up)²), down(silu(gate)·up), or the seed's relu(down(relu(up)))."""

    def __init__(self, config: CongLingConfig) -> None:
        super().__init__()
        self.kind = config.feed_forward
        self.up = CongLingLinear(config.hidden_size, config.intermediate_size, config.affine, before=True)
        if self.kind == "swiglu":
            self.gate = CongLingLinear(config.hidden_size, config.intermediate_size, config.affine, before=True)
        self.down = CongLingLinear(config.intermediate_size, config.hidden_size, config.affine, before=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "swiglu":
            return self.down(F.silu(self.gate(x)) * self.up(x))
        if self.kind == "relu2":
            return self.down(F.relu(self.up(x)).square())
        return F.relu(self.down(F.relu(self.up(x))))


class CongLingLayer(nn.Module):
    """Attention and feed-forward on the residual stream, normed before each ("pre") or once after both ("post")."""

    def __init__(self, config: CongLingConfig, number: int) -> None:
        super().__init__()
        self.attention = CongLingAttention(config, number)
        self.feed_forward = CongLingFeedForward(config)
        self.pre = config.norm == "pre"
        if self.pre:
            self.attention_norm = CongLingRMSNorm(config.hidden_size, config.rms_norm_eps)
            self.feed_forward_norm = CongLingRMSNorm(config.hidden_size, config.rms_norm_eps)
        else:
            self.norm = CongLingRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.dropout = config.dropout

    def forward(self, x: Tensor, *around: Any) -> tuple[Tensor, Tensor, Tensor]:
        y, values, weights = self.attention(self.attention_norm(x) if self.pre else x, *around)
        x = x + self._drop(self._drop(y))  # twice, as the seed does
        x = x + self._drop(self.feed_forward(self.feed_forward_norm(x) if self.pre else x))
        return (x if self.pre else self.norm(x)), values, weights

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class CongLingPreTrainedModel(PreTrainedModel):
    """What the library wants to know of both classes below."""

    config_class = CongLingConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["CongLingLayer"]  # noqa: RUF012
    _skip_keys_device_placement = ["cache", "past_key_values"]  # noqa: RUF012


class CongLingModel(CongLingPreTrainedModel):
    """Ids [B, Q] -> hidden states [B, Q, D]."""

    def __init__(self, config: CongLingConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.affine:
            self.embedding_affine = CongLingAffine(config.hidden_size**0.5)
        if config.position == "learned":
            self.input_position = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(CongLingLayer(config, number) for number in range(config.num_hidden_layers))
        if config.norm == "pre":
            self.norm = CongLingRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache: Cache | None = None,
        **_: Any,
    ) -> Any:
        """attention_mask: [B, T], 0 at padding (either side); or [B, 1, Q, T], true or 0.0 where a query may look."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give input_ids or inputs_embeds, one of them")
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds  # [B, Q, D]
        if self.config.affine:
            x = self.embedding_affine(x)
        cache = past_key_values if cache is None else cache
        replayed = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        if replayed:  # a layer run twice would write into the cache twice
            cache = None
        elif cache is None and (self.config.use_cache if use_cache is None else use_cache):
            cache = DynamicCache()
        allowed, distance, places = self._sights(x, attention_mask, position_ids, cache)
        x = self._with_input_position(x, places)
        with_hidden = _asked(output_hidden_states, self.config, "output_hidden_states")
        with_attentions = _asked(output_attentions, self.config, "output_attentions")
        hidden: tuple[Tensor, ...] = (x,)
        attentions: tuple[Tensor, ...] = ()
        first = None
        for layer in self.layers:
            around = allowed, distance, places, cache, first if self.config.value_residual else None
            if replayed:
                x, values, weights = checkpoint(layer, x, *around, use_reentrant=False)
            else:
                x, values, weights = layer(x, *around)
            first = values if first is None else first
            hidden = (*hidden, x) if with_hidden else hidden
            attentions = (*attentions, weights) if with_attentions else attentions
        if self.config.norm == "pre":
            x = self.norm(x)
        output = BaseModelOutputWithPast(
            last_hidden_state=x,
            hidden_states=(*hidden[:-1], x) if with_hidden else None,
            attentions=attentions if with_attentions else None,
            **{_CACHE: cache},
        )
        return output if _asked(return_dict, self.config, "return_dict") else output.to_tuple()

    def _sights(
        self, x: Tensor, mask: Tensor | None, position_ids: Tensor | None, cache: Cache | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Where queries may look [B or 1, 1, Q, T], how far that is [Q, T], and the place of each query [B or 1, Q]."""
        past, queries = int(cache.get_seq_length()) if cache is not None else 0, x.shape[1]
        keys = past + queries
        query = torch.arange(queries, device=x.device)[:, None] + past
        distance = query - torch.arange(keys, device=x.device)  # [Q, T]
        allowed = (distance >= 0)[None, None]
        if mask is not None and mask.dim() == 4:
            allowed = allowed & (mask if mask.dtype == torch.bool else mask == 0)[..., :keys]
        elif mask is not None:
            known = mask.to(torch.bool)[:, :keys]
            allowed = allowed & F.pad(known, (0, keys - known.shape[1]), value=True)[:, None, None]
            if position_ids is None:
                position_ids = (mask.long().cumsum(-1) - 1).clamp(min=0)[:, past : past + queries]
        elif position_ids is not None and past == 0:  # texts packed into one row begin at place 0 each
            text = (position_ids == 0).cumsum(-1)
            allowed = allowed & F.pad(text[:, :, None] == text[:, None, :], (0, keys - queries))[:, None]
        return allowed, distance.clamp(min=0), query.T if position_ids is None else position_ids

    def _with_input_position(self, x: Tensor, places: Tensor) -> Tensor:
        """Adds what the two methods add that act on the embeddings."""
        if self.config.position == "learned":
            if int(places.max()) >= self.config.max_position_embeddings:
                raise ValueError(f"learned positions end at {self.config.max_position_embeddings} tokens")
            return x + self.input_position(places)
        if self.config.position == "sinusoidal":
            half = self.config.hidden_size // 2
            angle = places[..., None] * 10_000.0 ** (-torch.arange(half, device=x.device) / half)
            wave = torch.cat((angle.sin(), angle.cos()), dim=-1)
            return x + ((1.0 if self.config.affine else 0.02) * wave).to(x.dtype)
        return x


def _asked(argument: bool | None, config: CongLingConfig, name: str) -> bool:
    return bool(getattr(config, name, False)) if argument is None else argument


class CongLingForCausalLM(CongLingPreTrainedModel, GenerationMixin):
    """Scores of the next token, and the loss when ``labels`` are given."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: CongLingConfig) -> None:
        super().__init__(config)
        self.model = CongLingModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.affine:
            self.head_affine = CongLingAffine()
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        cache: Cache | None = None,
        **others: Any,
    ) -> Any:
        """labels: [B, Q] ids, −100 where there is no loss; they are shifted here. logits_to_keep: so many last ones."""
        found = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            cache=past_key_values if cache is None else cache,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(found.last_hidden_state[:, kept])
        if self.config.affine:
            logits = self.head_affine(logits)
        if cap := self.config.logit_softcap:
            logits = cap * torch.tanh(logits / cap)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **others)
        output = CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=found.hidden_states,
            attentions=found.attentions,
            **{_CACHE: found.get(_CACHE)},
        )
        return output if _asked(return_dict, self.config, "return_dict") else output.to_tuple()
