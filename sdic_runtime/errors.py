"""The errors this distribution raises on purpose: one sentence each, with the value and the way out. A service can answer by their kind."""

LONGEST = 400  # characters of a sentence
KEPT_END = 150  # of a longer one, at least
GAP = " ... "
REMEDY = "; "  # in front of what to do


def printable(text: str, longest: int = LONGEST) -> str:
    """`text` in one line that a terminal can show: of at most `longest` characters, which are 30 or more (the middle is omitted), and with
    escapes in place of control codes, invisible characters and bytes of names that are no text."""
    if len(text) > longest:
        return _shortened(text, longest)
    escaped = _escaped(text)
    return escaped if len(escaped) <= longest else _shortened(escaped, longest)


def _shortened(text: str, longest: int) -> str:
    """A longer `text` without its middle. What to do stays whole, or where that alone is too long, only its own middle is omitted."""
    end, remedy = min(KEPT_END, longest // 3), text.rfind(REMEDY)
    last = printable(text[remedy:], longest - longest // 4 - len(GAP)) if remedy > 0 else ""
    if len(last) <= end:
        remedy, last = len(text), _escaped(text[-longest:])[-end:]
    first = _escaped(text[: min(remedy, longest)])
    room = longest - len(last)
    return first + last if len(first) <= room and remedy < len(text) else first[: room - len(GAP)] + GAP + last


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else " " if letter in "\n\r\t" else ascii(letter)[1:-1] for letter in text)


class SdicError(ValueError):
    """What is wrong, with the value, and what to do: one `printable` sentence, whatever it quotes. Commands print it, exit code 2."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(printable(part) if isinstance(part, str) else part for part in arguments))


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


class PictureWarning(UserWarning):
    """A picture that can be used, but hardly as it was meant: the library says so, commands print it."""
