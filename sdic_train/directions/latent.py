"""Edit directions: InterFaceGAN (a linear SVM on labelled codes), GANSpace (PCA of W), SeFa (closed form)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdic_runtime.edits import Direction, Pca
from sdic_runtime.errors import ArgumentError
from sdic_train.networks.stylegan2 import Generator

TEST_SHARE = 0.2  # of the labelled codes, on which the accuracy is measured
SMALLEST_CLASS = 20  # labelled codes per side
CALIBRATED_ON = 24  # codes per side
TRIED = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5)  # strengths, in distances between the two sides' codes


@dataclass(frozen=True)
class Boundary:
    """A direction and how well it separates codes that it was not made from."""

    direction: Direction
    accuracy: float  # share of held-out codes on the right side
    separation: float  # distance between the two sides along the unit normal: of their mean codes, or `calibrated`


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
            codes = latent.cpu().numpy()
            yield codes, labels_of(generator, read, codes, batch)


@torch.no_grad()
def labels_of(generator: Generator, read: Callable[[Tensor], Tensor], codes: NDArray[np.float32], batch: int = 16) -> NDArray[np.float32]:
    """What `read` says of the pictures of mapped codes [n, C]: [n, labels]."""
    labels = []
    for latent in torch.from_numpy(codes).to(generator.input.input.device).split(batch):
        picture = generator(latent[:, None].repeat(1, generator.config.rows, 1)).clamp(-1, 1)
        labels.append(read(picture).float().cpu().numpy())
    return np.concatenate(labels)


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
    return Boundary(Direction(normal.astype(np.float32), name, method, _range(separation)), accuracy, separation)


def calibrated(
    found: Boundary,
    codes: NDArray[np.float32],
    scores: NDArray[np.float32],
    threshold: float,
    span: float,
    read: Callable[[NDArray[np.float32]], NDArray[np.float32]],
) -> Boundary:
    """The boundary with the strength as its separation that moves pictures from one side of a label to the other.

    The mean codes of the sides are nearer to each other along a direction than that, the more so when others were projected out of it.
    codes, scores    codes [N, C] and their labels [N], with two sides of `threshold`, whose means are `span` apart
    read             codes [n, C] -> the labels [n] of their pictures
    A label that moves by less than its span at every strength up to 2.5 distances leaves the boundary as it is, and its method says so.
    """
    normal, moved = found.direction.vector.reshape(-1), np.zeros(len(TRIED))
    for sign, side in ((1, scores <= threshold), (-1, scores > threshold)):
        some, before = codes[side][:CALIBRATED_ON], scores[side][:CALIBRATED_ON]
        for place, strength in enumerate(TRIED):
            after = read((some + sign * strength * found.separation * normal).astype(np.float32))
            moved[place] += sign * float((after - before).mean()) / span / 2
    if moved.max() < 1:
        said = f"at {TRIED[moved.argmax()]:g} times the distance of the sides samples moved by {moved.max():.2f} of it"
        return replace(found, direction=replace(found.direction, method=f"{found.direction.method}; {said}"))
    end = int((moved >= 1).argmax())
    separation = found.separation * float(np.interp(1.0, (0.0, *moved)[end : end + 2], (0.0, *TRIED)[end : end + 2]))
    method = f"{found.direction.method}; a strength of {separation:.2f} moves samples from side to side"
    return Boundary(replace(found.direction, method=method, strength_range=_range(separation)), found.accuracy, separation)


def _range(separation: float) -> tuple[float, float]:
    """The useful strengths: what moves a code from one side to the other. Beyond, edits become caricatures."""
    reach = round(separation, 2)
    return -reach, reach


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
