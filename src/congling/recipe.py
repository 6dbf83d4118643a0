"""A recipe: all sections of one run, each owned by its room."""

from typing import Literal

from congling.clean.config import CleanConfig
from congling.clean.quality.config import LabelConfig
from congling.config import Config, option
from congling.corpus.fetch.config import FetchConfig
from congling.evaluate.config import EvaluateConfig
from congling.finetune.config import SftConfig
from congling.infer.config import EngineConfig, SampleConfig
from congling.interop.config import ExportConfig
from congling.model.config import ModelConfig
from congling.pretrain.config import PretrainConfig
from congling.probe.config import ProbeConfig
from congling.serve.config import ServeConfig
from congling.tokenizer.config import InspectConfig, TokenizeConfig, TokenizerConfig

StageName = Literal["fetch", "clean", "tokenizer", "tokenize", "pretrain", "sft", "evaluate"]


class RunConfig(Config):
    """What the stages of a run share."""

    name: str = option("default", "name of the run: results go to <dir>/<name>/<stage>/", pattern=r"^[\w.-]+$")
    dir: str = option("runs", "folder of all runs")
    data: str = option("data", "folder of fetched data sets, shared by all runs")
    seed: int = option(1, "seed of everything random", ge=0, lt=2**31)
    first: StageName = option("fetch", "run from this stage on (those before must be finished)", alias="from")
    last: StageName = option("evaluate", "run up to this stage", alias="to")


class Recipe(Config):
    """One section a stage; what a recipe leaves out has its default."""

    run: RunConfig = option(RunConfig(), "what the stages share")
    fetch: FetchConfig = option(FetchConfig(), "a data set from the user's package index or hub")
    clean: CleanConfig = option(CleanConfig(), "raw files to corpus")
    label: LabelConfig = option(LabelConfig(), "the page on which people label documents")
    tokenizer: TokenizerConfig = option(TokenizerConfig(), "corpus to vocabulary")
    tokenize: TokenizeConfig = option(TokenizeConfig(), "corpus to tokens")
    inspect: InspectConfig = option(InspectConfig(), "what to show of a vocabulary")
    export: ExportConfig = option(ExportConfig(), "models and vocabularies in the forms of others")
    model: ModelConfig = option(ModelConfig(), "the transformer")
    pretrain: PretrainConfig = option(PretrainConfig(), "tokens to base model")
    sft: SftConfig = option(SftConfig(), "base model and dialogues to chat model")
    evaluate: EvaluateConfig = option(EvaluateConfig(), "figures and samples")
    probe: ProbeConfig = option(ProbeConfig(), "a small model that copies, reverses or adds")
    sample: SampleConfig = option(SampleConfig(), "how text is generated in chat and serve")
    engine: EngineConfig = option(EngineConfig(), "memory and arithmetic of chat and serve")
    serve: ServeConfig = option(ServeConfig(), "the HTTP server")
