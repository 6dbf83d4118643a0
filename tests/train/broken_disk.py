"""Disks that break: every byte that a checkpoint writes passes through ``Disk.write``."""

import builtins
import errno
import os

from congling.train import checkpoint as module


class Disk:
    """Counts bytes; the write that would exceed ``room`` bytes is done in part and raises ``code``."""

    def __init__(self, room: float = float("inf"), code: int = errno.ENOSPC) -> None:
        self.room, self.code, self.written = room, code, 0

    def install(self, monkeypatch) -> "Disk":
        monkeypatch.setattr(module, "open", self.open, raising=False)
        return self

    def open(self, path, mode="r"):
        return _File(self, builtins.open(path, mode), path)


class _File:
    def __init__(self, disk, file, path):
        self._disk, self._file, self._path = disk, file, path

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()

    def __getattr__(self, name):
        return getattr(self._file, name)

    def write(self, data):
        disk, size = self._disk, len(data)
        if disk.written + size > disk.room:
            self._file.write(data[: int(disk.room - disk.written)])
            raise OSError(disk.code, os.strerror(disk.code), str(self._path))
        disk.written += size
        return self._file.write(data)
