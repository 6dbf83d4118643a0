"""Disks that break: every byte that a checkpoint writes passes through ``Disk.write``."""

import builtins
import errno
import os

from congling.train import checkpoint as module
from train.file_proxy import FileProxy


class Disk:
    """Counts bytes; the write that would exceed ``room`` bytes is done in part and raises ``code``."""

    def __init__(self, room: float = float("inf"), code: int = errno.ENOSPC) -> None:
        self.room, self.code, self.written = room, code, 0

    def install(self, monkeypatch) -> "Disk":
        monkeypatch.setattr(module, "open", self.open, raising=False)
        return self

    def open(self, path, mode="r"):
        return _File(self, builtins.open(path, mode), path)


class _File(FileProxy):
    def __init__(self, disk, file, path):
        super().__init__(file)
        self._disk, self._path = disk, path

    def write(self, data):
        disk, size = self._disk, len(data)
        if disk.written + size > disk.room:
            self._file.write(data[: int(disk.room - disk.written)])
            raise OSError(disk.code, os.strerror(disk.code), str(self._path))
        disk.written += size
        return self._file.write(data)
