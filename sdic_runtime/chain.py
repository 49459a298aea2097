"""The SDIC method as a chain of stages: the only code that knows it. Tensors are opaque and stay where the backend keeps them.

Numbers of equations are those of the SDIC paper. L, C, K, R, S: see `Sizes`.
"""

from __future__ import annotations

from sdic_runtime.backends.registry import Backend, Tensor
from sdic_runtime.errors import SdicError

EQ6_FORMS = ("paper", "released")


def check_eq6(eq6: str) -> str:
    """`eq6` itself when it is a form of Eq. 6 that the chain has. Raises SdicError."""
    if eq6 not in EQ6_FORMS:
        raise SdicError(f'eq6 is "{eq6}"; use "paper" or "released"')
    return eq6


def invert(backend: Backend, image: Tensor) -> dict[str, Tensor]:
    """Invert `image` [N, 3, S, S]: every tensor of the inversion by its name in the stage table."""
    latent = backend.run("e4e", {"image": image}, ["latent"])["latent"]
    head = backend.run("generator_head", {"latent": latent}, ["feature", "rgb"])
    preview = backend.run("generator_preview", {**head, "latent": latent}, ["reconstruction"])
    discrepancy = backend.run("dipn", {"image": image, **preview}, ["discrepancy"])
    compensated = backend.run("dicn", {**discrepancy, "feature": head["feature"], "latent": latent}, ["latent_enhanced", "residual"])
    enhanced = compensated["latent_enhanced"]
    rgb = backend.run("generator_head", {"latent": enhanced}, ["rgb"])["rgb"]
    picture = render(backend, head["feature"], compensated["residual"], rgb, enhanced)
    return {"latent": latent, "feature": head["feature"], **preview, **discrepancy, **compensated, "picture": picture}


def render(backend: Backend, feature: Tensor, residual: Tensor, rgb: Tensor, latent: Tensor) -> Tensor:
    """The picture [N, 3, R, R] of `latent` [N, L, C] in which layer 7 gives `feature` + `residual` [N, K, 64, 64] (Eq. 5 and 6).

    `rgb` is the skip up to layer 7, which still comes from `latent`.
    """
    inputs = {"feature": feature, "residual": residual, "rgb": rgb, "latent": latent}
    return backend.run("generator_tail", inputs, ["picture"])["picture"]


def edit(backend: Backend, latent: Tensor, latent_enhanced: Tensor, residual: Tensor, eq6: str = "paper") -> Tensor:
    """The picture [N, 3, R, R] of two edited latent codes [N, L, C] with the residual of the inversion (Eq. 6: F_E + P).

    F_E is layer 7 of the edited initial code in the paper's form, and of the edited enhanced code in the released code's form. With
    codes that were moved by nothing, the paper's form runs exactly what `invert` runs.
    """
    if check_eq6(eq6) == "released":
        head = backend.run("generator_head", {"latent": latent_enhanced}, ["feature", "rgb"])
    else:
        head = {
            **backend.run("generator_head", {"latent": latent}, ["feature"]),
            **backend.run("generator_head", {"latent": latent_enhanced}, ["rgb"]),
        }
    return render(backend, head["feature"], residual, head["rgb"], latent_enhanced)


def baseline(backend: Backend, latent: Tensor, zero: Tensor) -> Tensor:
    """The picture [N, 3, R, R] of e4e alone: `latent` [N, L, C] with the residual `zero` [N, K, 64, 64] of zeros."""
    head = backend.run("generator_head", {"latent": latent}, ["feature", "rgb"])
    return render(backend, head["feature"], zero, head["rgb"], latent)
