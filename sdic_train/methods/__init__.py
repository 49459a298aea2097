"""The methods, by the name that a bundle records."""

from pathlib import Path

from sdic_runtime.errors import BundleError
from sdic_runtime.program import Method
from sdic_train.checkpoints.load import read_checkpoint
from sdic_train.checkpoints.recognise import method_of
from sdic_train.methods import clcae, fs, hfgi, hyperstyle, plain, restyle, sdic, sfe
from sdic_train.methods.base import MethodCode
from sdic_train.methods.style_space import has_style_space, with_style_space

CODES = (
    *(sdic.METHOD, plain.E4E, plain.PSP, restyle.OVER_E4E, restyle.OVER_PSP),
    *(hfgi.METHOD, sfe.INVERTER, sfe.METHOD, hyperstyle.METHOD, clcae.METHOD, fs.METHOD),
)
METHODS: dict[str, MethodCode] = {method.name: method for method in CODES}


def method_named(name: str) -> MethodCode:
    """The method called `name`. Raises BundleError for one that is not known here."""
    if name not in METHODS:
        raise BundleError(f'the method "{name}" is not known to sdic_train; known are: {", ".join(METHODS)}')
    return METHODS[name]


def code_of(method: Method) -> MethodCode:
    """The code of a bundle's method, with style space where the bundle has it. Raises BundleError for one that is not known here."""
    code = method_named(method.method)
    return with_style_space(code) if has_style_space(method) else code


def method_of_file(path: Path, name: str | None = None) -> MethodCode:
    """The method whose weights the checkpoint holds, or the one called `name`, with as many iterations as the file says that it was
    trained with. Raises CheckpointError where it is of none, or may be of several, BundleError for an unknown name."""
    named = method_named(name) if name else None
    if named and named.unrolled is None:
        return named
    checkpoint = read_checkpoint(path, sure=named is None)
    code = named or METHODS[method_of(checkpoint.kind)]
    return code.iterating(None, checkpoint.iterations)
