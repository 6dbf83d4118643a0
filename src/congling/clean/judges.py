"""What pass 3 asks of a text: boilerplate to cut, evaluation sets to keep out, quality to reach."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from congling.clean.adverts import Boilerplate
from congling.clean.config import CleanConfig
from congling.clean.decontaminate import EvalGrams
from congling.clean.letters import NEWLINE, Spelled, letters_of
from congling.clean.normalise import Normalised
from congling.clean.parts import STAYS
from congling.clean.quality.classifier import Classifier
from congling.clean.rules import FIRST_RULE, REASONS, detail, judge, measures
from congling.clean.statistics import measure

_LEAST_LEFT = 0.3  # of the characters; a document of which less stays after cutting was boilerplate
_STILL = 0.9  # of the characters; where more stay, nothing is measured again
_TOO_SHORT = REASONS.index("too_short") - FIRST_RULE


@dataclass
class Verdict:
    """On N documents that stayed so far."""

    text: pa.Array  # [N], after cutting
    reason: NDArray[np.int16]  # [N], STAYS or an index into REASONS
    detail: dict[int, str]  # of those that do not stay
    changed: NDArray[np.bool_]  # [N], something was cut
    item: NDArray[np.int64]  # [N], the evaluation item found, -1: none
    score: NDArray[np.float32] | None  # [N], quality

    def reject(self, where: NDArray[np.bool_], reason: str, details: Any) -> None:
        """Gives the documents of ``where`` that still stay a reason; ``details(i)`` says why."""
        for i in np.flatnonzero(where & (self.reason == STAYS)):
            self.reason[i] = REASONS.index(reason)
            self.detail[int(i)] = details(int(i))


@dataclass(frozen=True)
class Judges:
    """Everything that is known about texts of this corpus."""

    config: CleanConfig
    limits: NDArray[np.float64]  # of the rules [R, 2]
    boilerplate: Boilerplate | None
    evals: EvalGrams | None
    classifier: Classifier | None

    @classmethod
    def load(cls, folder: Path, config: CleanConfig) -> "Judges":
        """From the files that were prepared in ``folder``; a file that is not there was not asked for."""

        def have(name: str, kind: Any) -> Any:
            return kind.load(folder / name) if (folder / name).exists() else None

        return cls(
            config,
            np.load(folder / "limits.npy"),
            have("boilerplate.npz", Boilerplate),
            have("evals.npz", EvalGrams),
            have("classifier.npz", Classifier),
        )

    def judge(self, text: pa.Array) -> Verdict:
        """The verdict on texts that the rules and the comparison let pass."""
        count = len(text)
        verdict = Verdict(
            text,
            np.full(count, STAYS, np.int16),
            {},
            np.zeros(count, np.bool_),
            np.full(count, -1, np.int64),
            None,
        )
        if not count:
            return verdict
        spelled = letters_of(text, NEWLINE)
        if self.boilerplate is not None:
            self._cut(self.boilerplate, verdict, spelled)
        if self.evals is not None:
            overlap, verdict.item = self.evals.find(spelled)
            rows = np.flatnonzero(verdict.changed)
            overlap[rows], verdict.item[rows] = self.evals.find(letters_of(verdict.text, NEWLINE, verdict.changed))
            names = self.evals.names
            verdict.reject(
                verdict.item >= 0, "contaminated", lambda i: f"{overlap[i]} letters of {names[verdict.item[i]]}"
            )
        if self.classifier is not None:
            score = verdict.score = self.classifier.score(verdict.text)
            least = self.classifier.least
            verdict.reject(score < least, "low_quality", lambda i: f"quality {score[i]:.3f} < {least:.3f}")
        return verdict

    def _cut(self, boilerplate: Boilerplate, verdict: Verdict, spelled: Spelled) -> None:
        cut = boilerplate.apply(verdict.text, spelled)
        if self.config.adverts == "drop":
            many = cut.hits >= self.config.advert_hits
            verdict.reject(
                many, "advert", lambda i: f"{cut.hits[i]} adverts, first {boilerplate.name(int(cut.first_hit[i]))}"
            )
            return
        left, share = np.zeros(len(cut.text), np.int64), np.ones(len(cut.text))
        left[cut.changed] = pc.utf8_length(cut.text.filter(pa.array(cut.changed))).to_numpy()
        share[cut.changed] = 1 - (cut.cut_characters / np.maximum(left + cut.cut_characters, 1))[cut.changed]
        verdict.reject(
            share < _LEAST_LEFT, "advert", lambda i: f"{1 - share[i]:.2f} of it is boilerplate > {1 - _LEAST_LEFT:g}"
        )
        verdict.text, verdict.changed = cut.text, cut.changed
        self._judge_again(verdict, cut.changed & ((share < _STILL) | (left < self.limits[_TOO_SHORT, 0])))

    def _judge_again(self, verdict: Verdict, where: NDArray[np.bool_]) -> None:
        """What is left after cutting must still keep to the rules. Measured again are the documents of ``where``: more
        than a tenth went, or they are too short now; the others' shares are about what they were."""
        rows = np.flatnonzero(where & (verdict.reason == STAYS))
        if not len(rows):
            return
        left = verdict.text.take(pa.array(rows))
        counts, none = measure(left), np.zeros(len(left), np.int64)  # what was garbled is gone by now
        normal = Normalised(
            left, changes=none.astype(np.uint16), garbled=none, characters=counts.characters, mojibake=none
        )
        values = measures(normal, counts)
        broken = judge(values, self.limits)
        for i, rule, value in zip(rows.tolist(), broken.tolist(), values, strict=True):
            if rule != STAYS:
                verdict.reason[i] = FIRST_RULE + rule
                verdict.detail[i] = "after cutting: " + detail(rule, value[rule], self.limits[rule])
