"""An open file whose ``write`` a test replaces; all else is the file's own."""


class FileProxy:
    def __init__(self, file) -> None:
        self._file = file

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()

    def __getattr__(self, name):
        return getattr(self._file, name)
