"""Edit directions: InterFaceGAN (a linear SVM on labelled codes), GANSpace (PCA of W), SeFa (closed form)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdic_runtime.edits import Direction, Pca
from sdic_runtime.errors import ArgumentError
from sdic_train.networks.stylegan2 import Generator

TEST_SHARE = 0.2  # of the labelled codes, on which the accuracy is measured
SMALLEST_CLASS = 20  # labelled codes per side


@dataclass(frozen=True)
class Boundary:
    """A direction and how well it separates codes that it was not made from."""

    direction: Direction
    accuracy: float  # share of held-out codes on the right side
    separation: float  # distance between the two sides' mean codes along the unit normal


def _mapped(generator: Generator, samples: int, seed: int, batch: int) -> Iterator[Tensor]:
    """Batches of mapped codes w [n, C] that follow from `seed` alone."""
    random, width = torch.Generator().manual_seed(seed), generator.config.style_width
    for start in range(0, samples, batch):
        z = torch.randn(min(batch, samples - start), width, generator=random)
        yield generator.mapping(z.to(generator.input.input.device))


def labelled_codes(
    generator: Generator, read: Callable[[Tensor], Tensor], samples: int, seed: int = 0, batch: int = 16
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Batches of mapped codes w [n, C] and what `read` says of their pictures, [n, labels]. The codes follow from `seed` alone."""
    with torch.no_grad():
        for latent in _mapped(generator, samples, seed, batch):
            picture = generator(latent[:, None].repeat(1, generator.config.rows, 1)).clamp(-1, 1)
            yield latent.cpu().numpy(), read(picture).float().cpu().numpy()


def boundary(
    codes: NDArray[np.float32],
    scores: NDArray[np.float32],
    threshold: float,
    name: str,
    margin: float = 0.0,
    against: NDArray[np.float32] | None = None,
    seed: int = 0,
) -> Boundary:
    """InterFaceGAN: the unit normal, towards high scores, of the linear SVM between codes [N, C] below and above `threshold`.

    margin     scores closer to the threshold than this are omitted
    against    unit directions [k, C] whose share is taken out of the normal (conditional manipulation)
    Raises ArgumentError when a side has fewer than 20 codes.
    """
    from sklearn.svm import LinearSVC

    sure = np.abs(scores - threshold) >= margin
    codes, above = codes[sure], scores[sure] > threshold
    few = min(int(above.sum()), int((~above).sum()))
    if few < SMALLEST_CLASS:
        raise ArgumentError(
            f'the attribute "{name}" has only {few} codes on one side; use at least {SMALLEST_CLASS}: more samples or a smaller margin'
        )
    order = np.random.default_rng(seed).permutation(len(codes))
    held, used = np.split(order, [max(1, int(len(order) * TEST_SHARE))])
    mean, deviation = codes[used].mean(0), codes[used].std()
    machine = LinearSVC(C=0.01, class_weight="balanced", dual=False, random_state=seed).fit((codes[used] - mean) / deviation, above[used])
    accuracy = float((machine.predict((codes[held] - mean) / deviation) == above[held]).mean())
    method = f"InterFaceGAN: linear SVM on {len(used)} codes, accuracy {accuracy:.3f} on {len(held)} others"
    normal = _unit(machine.coef_[0])
    if against is not None and len(against):
        basis, _ = np.linalg.qr(against.T.astype(np.float64))
        normal = _unit(normal - basis @ (basis.T @ normal))
        method += f", {len(against)} other directions projected out"
    along = codes @ normal
    separation = float(along[above].mean() - along[~above].mean())
    reach = round(1.5 * separation, 2)
    return Boundary(Direction(normal.astype(np.float32), name, method, (-reach, reach)), accuracy, separation)


def ganspace(generator: Generator, components: int = 80, samples: int = 100_000, seed: int = 0) -> Pca:
    """GANSpace: principal components of `samples` mapped codes, strongest first."""
    width = generator.config.style_width
    if not 1 <= components <= width or samples < 2 * components:
        raise ArgumentError(
            f"{components} components cannot be made from {samples} codes of width {width}; use at most {width} and more codes"
        )
    with torch.no_grad():
        codes = torch.cat([latent.cpu() for latent in _mapped(generator, samples, seed, 4096)]).double().numpy()
    mean = codes.mean(0)
    _, values, vectors = np.linalg.svd(np.cov(codes - mean, rowvar=False), hermitian=True)
    vectors = vectors[:components] * np.sign(vectors[:components].sum(1, keepdims=True))
    deviations = np.sqrt(np.maximum(values[:components], 1e-12))
    mean, vectors, deviations = (array.astype(np.float32) for array in (mean, vectors, deviations))
    return Pca(mean, vectors, deviations, "ganspace", f"GANSpace: PCA of {samples} codes of W, seed {seed}")


def sefa(generator: Generator, first: int, end: int, count: int) -> list[Direction]:
    """SeFa: the `count` directions that the modulations of the style rows first..end-1 amplify most (eigenvectors of the sum of A^T A)."""
    config = generator.config
    if not 0 <= first < end <= config.rows or not 1 <= count <= config.style_width:
        raise ArgumentError(
            f"SeFa for the rows {first} to {end} with {count} directions does not fit {config.rows} rows of width {config.style_width}"
        )
    layers = [generator.conv1, *generator.convs][first:end]
    if not layers:
        raise ArgumentError(
            f"the rows {first} to {end} modulate no convolution (row {config.rows - 1} is the last RGB layer's); start lower"
        )
    weights = torch.cat([layer.conv.modulation.weight.detach() for layer in layers])
    weights = (weights / weights.norm(dim=1, keepdim=True)).double().cpu().numpy()
    _, vectors = np.linalg.eigh(weights.T @ weights)
    found = []
    for index, vector in enumerate(vectors.T[::-1][:count]):
        name, method = f"sefa_{first}_{end}_{index}", f"SeFa: rows {first} to {end - 1}, eigenvector {index}"
        found.append(Direction(vector.astype(np.float32), name, method, (-3.0, 3.0), (first, end)))
    return found


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    length = np.linalg.norm(vector)
    if not length > 1e-8:
        raise ArgumentError("nothing is left of the direction after the others were projected out; project fewer out")
    return vector / length
