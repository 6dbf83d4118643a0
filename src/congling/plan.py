"""What a training of a recipe will cost, as lines of text: `congling pretrain RECIPE dry_run=true`.

Reads what earlier stages have left, takes the recipe's word for the rest, and writes nothing.
"""

import json
from dataclasses import dataclass
from typing import Any

from congling import artifact
from congling.config import ConfigError
from congling.finetune.config import SftConfig
from congling.model.config import Architecture
from congling.pipeline import stage_folder
from congling.pretrain.config import PretrainConfig
from congling.recipe import Recipe
from congling.reporter import duration, human
from congling.train.config import LoopConfig
from congling.train.cost import Estimate, estimate
from congling.train.devices import MFU_MEASURED, find_device
from congling.train.memory import USABLE

_GIB = 2**30
_SMALL = 50_000_000  # parameters
_LABEL = 12  # characters of the first column


@dataclass(frozen=True)
class _Known:
    """What is known of the data, and from where."""

    architecture: Architecture
    source: str  # of the vocabulary's size
    epoch_tokens: int | None = None
    document_tokens: float | None = None  # mean length of the documents, when they are kept apart


def plan(recipe: Recipe, stage: str) -> list[str]:
    """The cost of the training ``stage`` of ``recipe``, on the device that its section names. Raises ConfigError."""
    config: LoopConfig = getattr(recipe, stage)
    known = _known(recipe, stage)
    try:
        device = find_device(config.device)
    except ValueError as error:
        raise ConfigError(f"{stage}.{error}") from None
    found = estimate(known.architecture, config, device, known.document_tokens)
    return [
        f"{stage}: what it will cost; nothing is started",
        *_model_lines(found, known),
        *_work_lines(found, config, known),
        *_memory_lines(found, config),
        *_time_lines(found),
        *_disk_lines(found),
    ]


def _known(recipe: Recipe, stage: str) -> _Known:
    if stage == "sft":
        base = stage_folder(recipe, "pretrain") / "model.json"
        if base.is_file():
            return _Known(Architecture(**json.loads(base.read_bytes())), str(base))
    if stage == "probe":
        from congling.probe.run import probe_tokenizer

        size = probe_tokenizer(recipe.probe.alphabet).vocab_size
        return _Known(recipe.model.resolve(size), "the alphabet of the probe")
    for name, key in (("tokenize", "vocab_size"), ("tokenizer", "size")):
        summary = _summary(recipe, name)
        if summary is None:
            continue
        architecture, folder = recipe.model.resolve(summary[key]), str(stage_folder(recipe, name))
        if name == "tokenizer" or stage != "pretrain":
            return _Known(architecture, folder)
        train = summary["train"]
        apart = recipe.pretrain.documents == "separate"
        mean = train["tokens"] / max(train["documents"], 1) if apart else None
        return _Known(architecture, folder, train["tokens"], mean)
    return _Known(recipe.model.resolve(recipe.tokenizer.vocab_size), "tokenizer.vocab_size")


def _summary(recipe: Recipe, stage: str) -> dict[str, Any] | None:
    folder = stage_folder(recipe, stage)
    if not (folder / artifact.MANIFEST).is_file():
        return None
    summary: dict[str, Any] = artifact.read_manifest(folder, stage)["summary"]
    return summary


# -- lines ---------------------------------------------------------------------------------------------------------


def _model_lines(found: Estimate, known: _Known) -> list[str]:
    groups = ", ".join(f"{name} {human(n)}" for name, n in found.parameters.items() if n)
    device = found.device
    origin = "measured now" if device.measured else "data sheet"
    power = "" if device.watts is None else f", {device.watts:.0f} W{' (a guess)' if device.kind == 'cpu' else ''}"
    peak = f"{_si(device.peak(found.precision))}FLOP/s in {found.precision} ({origin})"
    lines = [
        _row("model", f"{human(sum(found.parameters.values()))} parameters: {groups}"),
        _row("", f"{known.architecture.vocab_size:,} ids, from {known.source}"),
        _row("device", f"{device.name}: {peak}, {_bytes(device.memory)}{power}"),
    ]
    if device.bf16 is None and device.kind != "cpu":
        lines.append(_row("", "warning: it multiplies no bf16; float32 is counted here: set precision = fp32"))
    return lines


def _work_lines(found: Estimate, config: LoopConfig, known: _Known) -> list[str]:
    lengths = [f"{_si(flops)}FLOP at length {length}" for length, flops in found.flops_per_token.items()]
    muon = "" if config.muon_step is None else " and Muon"
    batches = ", ".join(f"{batch:,}" for batch in config.batch_schedule or (config.batch_tokens,))
    return [
        _row(
            "tokens",
            f"{human(found.tokens)} in {found.steps:,} steps of {batches}{_epochs(found, config, known)}",
        ),
        _row("a token", f"{_si(found.mean_flops)}FLOP forward and backward: {', '.join(lengths)}"),
        _row("in all", f"{_si(found.flops)}FLOP, and {_si(found.extra_flops)}FLOP for validation{muon}"),
    ]


def _epochs(found: Estimate, config: LoopConfig, known: _Known) -> str:
    if known.epoch_tokens:
        return f", {found.tokens / known.epoch_tokens:.2f} epochs of {human(known.epoch_tokens)}"
    if isinstance(config, SftConfig) and config.epochs is not None:
        return f"; but sft.epochs = {config.epochs:g} counts, and how many tokens those are shows when they are packed"
    return "; epochs: known after the stage tokenize" if isinstance(config, PretrainConfig) else ""


def _memory_lines(found: Estimate, config: LoopConfig) -> list[str]:
    parts = sorted(found.memory.parts.items(), key=lambda item: -item[1])
    micro, room = config.micro_batch_tokens, found.device.memory
    moment = {"loss": "at the loss", "backward": "in the backward pass", "update": "in the update"}
    lines = [
        _row("memory", f"{_bytes(found.memory.total)} of {_bytes(room)}, fullest {moment[found.memory.moment]}:"),
        *(_row("", f"{_bytes(size):>10}  {name}") for name, size in parts),
    ]
    if found.fits is None:
        lines.append(
            _row("", "warning: does not fit, whatever micro_batch_tokens is: a smaller model, or shorter lengths")
        )
    elif found.memory.total > USABLE * room:
        lines.append(_row("", f"warning: does not fit; set micro_batch_tokens = {found.fits} (now {micro})"))
    else:
        lines.append(_row("", f"micro_batch_tokens = {micro}; the largest that fits is {found.fits}"))
    if found.device.kind != "cpu":
        lines.append(_row("", f"besides, {_bytes(found.memory.host)} of main memory while a checkpoint is written"))
    return lines


def _time_lines(found: Estimate) -> list[str]:
    low, high = found.mfu
    known = "measured by benchmarks/cost.py" if found.device.kind in MFU_MEASURED else "an assumption, not measured yet"
    rates = " to ".join(human(rate) for rate in found.tokens_per_second)
    energy = "unknown: no figure for the power of this device"
    if found.kilowatt_hours is not None:
        energy = f"{_range(found.kilowatt_hours, 'kWh', 'Wh', 1000)} at full power, the rest of the machine not counted"
    days = _range((found.seconds[0] / 86400, found.seconds[1] / 86400), "days", "h", 24)
    time = days if found.seconds[1] > 86400 else " to ".join(duration(seconds) for seconds in found.seconds)
    lines = [
        _row("time", f"{time}, {rates} tokens/s"),
        _row("", f"at {100 * low:.0f} to {100 * high:.0f} % of the peak: {known}; samples are not counted"),
        _row("energy", energy),
    ]
    if found.device.kind != "cpu" and sum(found.parameters.values()) < _SMALL:
        lines.insert(2, _row("", "that is for 0.1 B and more: so small a model cannot keep a GPU busy, expect longer"))
    return lines


def _range(values: tuple[float, float], unit: str, smaller: str, factor: float) -> str:
    """(1.26, 2.5) -> '1.3 to 2.5 kWh'; in the smaller unit when the first value is below 1."""
    if values[0] < 1:
        values, unit = (values[0] * factor, values[1] * factor), smaller
    return (
        f"{values[0]:.2g} to {values[1]:.2g} {unit}"
        if values[1] < 99.5
        else f"{values[0]:.0f} to {values[1]:.0f} {unit}"
    )


def _disk_lines(found: Estimate) -> list[str]:
    each = _bytes(found.checkpoint_bytes)
    return [_row("disk", f"up to {_bytes(found.disk)}: {found.checkpoints} checkpoints of {each}, one more under way")]


def _row(label: str, text: str) -> str:
    return f"  {label:<{_LABEL}}{text}"


def _bytes(size: float) -> str:
    if size < _GIB:
        return f"{size / 2**20:.3g} MiB" if size < 999.5 * 2**20 else "1 GiB"
    return f"{size / _GIB:.3g} GiB"


def _si(value: float) -> str:
    """925000000.0 -> '925 M'."""
    for prefix in ("", "k", "M", "G", "T", "P", "E"):
        if value < 999.5:
            return f"{value:.3g} {prefix}"
        value /= 1000
    return f"{value:.3g} Z"
