"""The errors this distribution raises on purpose: one sentence each, with the value and the way out. A service can answer by their kind."""


class SdicError(ValueError):
    """What is wrong, with the value, and what to do. Commands print it and exit with code 2."""


class ArgumentError(SdicError):
    """A value that the caller gave: a strength, a name, an option."""


class PictureError(SdicError):
    """A picture that cannot be read or used."""


class FileError(SdicError):
    """A file that cannot be read or written, or is not what it should be: an inversion, a direction, a result."""


class BundleError(SdicError):
    """No bundle, a damaged one, or one of a newer schema."""


class CheckpointError(SdicError):
    """A checkpoint that cannot be read, is not of a known method, or does not fit the bundle."""


class BackendError(SdicError):
    """A backend that is not there, cannot be used here, or failed on a stage."""


class OutOfMemoryError(SdicError):
    """Not enough memory, on the host or on the device."""


class MissingExtraError(SdicError):
    """A package of an optional extra is needed and not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f'{purpose} needs the package "{package}"; install it with: pip install "sdic-toolkit[{extra}]"')
        self.arguments = (package, extra, purpose)

    def __reduce__(self) -> tuple[type["MissingExtraError"], tuple[str, str, str]]:
        return type(self), self.arguments
