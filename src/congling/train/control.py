"""Live changes: requests are checked against the training, written into its journal, and acted on by its schedule."""

from collections.abc import Callable
from pathlib import Path

from congling.train.config import LoopConfig
from congling.train.data import BatchSource, align
from congling.train.journal import Journal, read_request
from congling.train.schedule import Change, Schedule


class Control:
    """The journal of a training and the schedule that follows from it. ``ranks``: how many share a batch."""

    def __init__(self, journal: Journal, config: LoopConfig, source: BatchSource, ranks: int) -> None:
        self.journal, self._config, self._source, self._ranks = journal, config, source, ranks
        self.schedule = Schedule(config, journal.changes)

    def reload(self) -> None:
        """Reads the journal again: another rank has written into it."""
        self.journal.read()
        self.schedule = Schedule(self._config, self.journal.changes)

    def check_all(self, step: int, tokens: int) -> None:
        """Raises ValueError when a step from here on cannot be shared among the ranks."""
        for sizes in self.schedule.sizes_ahead(step, tokens):
            sizes.check(self._ranks)

    def take(self, step: int, tokens: int, position: int, refuse: Callable[[str], None]) -> bool:
        """Answers the waiting requests; what fits takes effect before ``step``. True when there was such a one.

        tokens, position: where the training will be then. refuse: shown why a request is not followed.
        """
        taken = False
        for file in self.journal.requests():
            try:
                change = read_request(file)
                self._check(Change(step, **change), tokens, position)
            except ValueError as error:
                refuse(f"request {_shown(file)} refused: {error}")
            else:
                self.journal.record("change", step, set=change, request=file.name)
                taken = True
                self.reload()
            file.unlink()
        return taken

    def _check(self, change: Change, tokens: int, position: int) -> None:
        """Raises ValueError when the training cannot do as ``change`` says, now or in a later phase."""
        c = self._config
        if change.lr is not None and c.schedule != "constant" and change.lr < c.lr_final:
            raise ValueError(f"lr {change.lr} is below lr_final {c.lr_final}, to which the schedule falls")
        planned = Schedule(c, [*self.schedule.changes, change]).sizes_ahead(change.step, tokens)
        for sizes in planned:
            sizes.check(self._ranks)
        length = planned[0].seq_len
        if change.seq_len is not None:
            try:
                self._source.batch(align(position, length), 1, length)
            except ValueError as error:
                raise ValueError(f"seq_len {length}: {error}") from None


def _shown(file: Path) -> str:
    return " ".join(file.read_text(encoding="utf-8", errors="replace").split())[:200]
