"""The errors this distribution raises on purpose: one sentence each, with the value and the way out."""


class SdicError(ValueError):
    """What is wrong, with the value, and what to do. Commands print it and exit with code 2."""


class MissingExtraError(SdicError):
    """A package of an optional extra is needed and not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f'{purpose} needs the package "{package}"; install it with: pip install "sdic[{extra}]"')
