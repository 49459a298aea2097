"""The methods, by the name that a bundle records."""

from sdic_runtime.errors import BundleError
from sdic_train.methods import sdic
from sdic_train.methods.base import MethodCode

METHODS: dict[str, MethodCode] = {method.name: method for method in (sdic.METHOD,)}


def method_named(name: str) -> MethodCode:
    """The method called `name`. Raises BundleError for one that is not known here."""
    if name not in METHODS:
        raise BundleError(f'the method "{name}" is not known to sdic_train; known are: {", ".join(METHODS)}')
    return METHODS[name]
