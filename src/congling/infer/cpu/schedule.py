"""A batch as the kernels want it: places of new tokens, jobs of attention, waves of jobs."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from congling.infer.backend import Batch
from congling.infer.cpu import fields as f


@dataclass
class Schedule:
    """What is done in one step, and how much room it takes."""

    positions: NDArray[np.int64]  # [N] of new tokens in their sequences
    places: NDArray[np.int64]  # [N] page·32 + place in the page
    jobs: NDArray[np.int64]  # [J, NUM_JOB_FIELDS]
    waves: NDArray[np.int64]  # [W, NUM_WAVE_FIELDS]
    width: int  # most tokens that a row sees, a multiple of 32
    expanded: int  # most tokens of a sequence whose keys and values are made anew


def schedule(batch: Batch, absorbed: bool, identity: int) -> Schedule:
    """identity: address of the page numbers 0, 1, 2, …, those of scratch pages."""
    starts, lengths = batch.starts.tolist(), batch.lengths.tolist()
    counts = [starts[s + 1] - starts[s] for s in range(len(lengths))]
    sequence = np.repeat(np.arange(len(lengths)), counts)
    positions = np.arange(starts[-1]) - np.repeat(batch.starts[:-1] - batch.lengths, counts)
    places = batch.tables[sequence, positions // f.PAGE].astype(np.int64) * f.PAGE + positions % f.PAGE
    assert (batch.tables.dtype, batch.tables.strides[1]) == (np.int32, 4)
    table, line = batch.tables.ctypes.data, batch.tables.strides[0]
    waves = _Waves()
    for s, count in enumerate(counts):
        prompt = count > 1 if batch.prompt is None else bool(batch.prompt[s])
        form = f.KV_PAGES if not absorbed else f.EXPANDED if prompt else f.LAYER_INPUTS
        waves.add(form, table + s * line, identity, starts[s], count, lengths[s])
    width = -(-max((length + n for length, n in zip(lengths, counts, strict=True)), default=1) // f.PAGE) * f.PAGE
    jobs = np.array(waves.jobs, np.int64).reshape(-1, f.NUM_JOB_FIELDS)
    rows = np.array(waves.waves, np.int64).reshape(-1, f.NUM_WAVE_FIELDS)
    return Schedule(positions, places, jobs, rows, width, waves.expanded)


class _Waves:
    """Collects jobs into waves: of one form, of rows that follow one another, of bounded size."""

    def __init__(self) -> None:
        self.jobs: list[list[int]] = []
        self.waves: list[list[int]] = []
        self.expanded = 0
        self._rows = self._pages = 0  # of the wave under way

    def add(self, form: int, table: int, identity: int, first: int, count: int, length: int) -> None:
        """The jobs of one sequence, at most a wave's rows each."""
        fresh = form == f.EXPANDED
        if fresh:
            self.expanded = max(self.expanded, length + count)
        done = 0
        while done < count:
            rows = min(count - done, f.WAVE_ROWS)
            tokens = length + done + rows
            pages = -(-tokens // f.PAGE)
            if fresh or not self._fits(form, rows):
                self.waves.append([len(self.jobs), 0, form, length + count if fresh else 0])
                self._rows = self._pages = 0
                fresh = False
            used = identity if form == f.EXPANDED else table
            self.jobs.append([used, table, first + done, rows, tokens, self._rows, self._pages])
            self._rows += rows
            self._pages += pages
            self.waves[-1][f.WAVE_LAST] = len(self.jobs)
            done += rows

    def _fits(self, form: int, rows: int) -> bool:
        return bool(self.waves) and self.waves[-1][f.WAVE_FORM] == form and self._rows + rows <= f.WAVE_ROWS
