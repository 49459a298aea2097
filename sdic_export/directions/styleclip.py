"""StyleCLIP's global directions (Patashnik et al. 2021, section 6): what a change of words does to every style.

Arrays that its authors computed once for a generator say so: `fs3.npy` [styles of the convolutions, D], how the picture's CLIP embedding
follows each style, and `S_mean_std`, mean and deviation of every style. CLIP itself is needed for the words alone: as the user's own ONNX
file, or as embeddings in a file.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdic_runtime.edits import check_number
from sdic_runtime.errors import ArgumentError, FileError, MissingExtraError, SdicError
from sdic_runtime.files import reason
from sdic_runtime.parsing.arrays import finite_array
from sdic_runtime.styles import StyleDirection

ARRAYS, STATISTICS, TEMPLATES = "fs3.npy", "S_mean_std", "templates.txt"
STATISTICS_LIMIT = 16 << 20  # bytes
BETA = 0.15  # relevance below which a style stays; the authors use 0.08 to 0.3
STRENGTHS = (-5.0, 5.0)  # the authors' alphas
TEXT_MODELS = ("text_model.onnx", "onnx/text_model.onnx", "model.onnx")
TOKENIZER = "tokenizer.json"
CONTEXT = 77  # tokens that CLIP reads


def rgb_layers(count: int) -> set[int]:
    """Which of `count` layers are RGB layers, which global directions leave alone."""
    return set(range(1, count, 3))


def global_direction(
    relevance: np.ndarray, deviations: Sequence[np.ndarray], change: np.ndarray, beta: float = BETA, name: str = "", method: str = ""
) -> StyleDirection:
    """The direction in style space for the `change` [D] of a text's embedding.

    relevance    fs3: [styles of the convolutions, D]
    deviations   of every style, per layer, RGB layers too
    beta         styles whose relevance to the change is smaller stay
    The largest change of a style is one standard deviation at strength 1. Raises ArgumentError.
    """
    beta = check_number(beta, "beta")
    convolutions = [layer for layer in range(len(deviations)) if layer not in rgb_layers(len(deviations))]
    count = sum(len(deviations[layer]) for layer in convolutions)
    if relevance.ndim != 2 or len(relevance) != count or change.shape != relevance.shape[1:]:
        found = f"relevance {list(relevance.shape)}, change {list(change.shape)}"
        raise ArgumentError(f"the arrays do not fit: {found}, and the deviations have {count} styles of convolutions")
    length = float(np.linalg.norm(change))
    if not length > 0:
        raise ArgumentError("the two texts have the same embedding, so that nothing changes between them; use other words")
    amounts = relevance @ (change / length)
    amounts = np.where(np.abs(amounts) < beta, 0, amounts)
    largest = float(np.abs(amounts).max())
    if not largest > 0:
        most = float(np.abs(relevance @ (change / length)).max())
        raise ArgumentError(f"no style has a relevance of {beta:g}, the largest is {most:.3f}; use a smaller --beta")
    parts = np.split(amounts / largest, np.cumsum([len(deviations[layer]) for layer in convolutions])[:-1])
    of_layer = dict(zip(convolutions, parts, strict=True))
    vector = np.concatenate([of_layer.get(layer, np.zeros(1)) * deviation for layer, deviation in enumerate(deviations)])
    return StyleDirection(vector, name, method, STRENGTHS)


def read_relevance(path: Path) -> np.ndarray:
    """`fs3.npy`: float32 [styles, D]. Raises FileError."""
    try:
        return finite_array(np.load(path, allow_pickle=False), str(path))
    except OSError as error:
        raise FileError(f"cannot read {path}: {reason(error)}") from error
    except (ValueError, EOFError) as error:
        raise FileError(f"{path} is not the array of StyleCLIP ({error}); get it again") from error


def read_deviations(path: Path, layers: Sequence[int]) -> list[np.ndarray]:
    """The deviations in `S_mean_std`, per layer, checked to be of a model with `layers`. It is a pickle of two lists of arrays, and nothing
    else in it is read. Raises FileError."""
    try:
        if path.stat().st_size > STATISTICS_LIMIT:
            raise FileError(f"{path} has {path.stat().st_size} bytes, which is too much for means and deviations; get it again")
        with path.open("rb") as stream:
            content = _Arrays(stream, encoding="latin1").load()
        _, deviations = content
        made = [finite_array(part, str(path)).reshape(-1) for part in deviations]
    except SdicError:
        raise
    except OSError as error:
        raise FileError(f"cannot read {path}: {reason(error)}") from error
    except Exception as error:  # a damaged pickle fails in many ways
        raise FileError(f"{path} is not StyleCLIP's file of means and deviations ({error}); get it again") from error
    if [len(part) for part in made] != list(layers):
        raise FileError(
            f"{path} is of {sum(map(len, made))} styles in {len(made)} layers, and this model has {sum(layers)} in {len(layers)}"
        )
    return made


class _Arrays(pickle.Unpickler):
    """Makes numpy arrays, and refuses everything else that a pickle can name."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("multiarray", "scalar"),
            ("_codecs", "encode"),
        }
        parts = module.split(".")
        if parts[0] not in ("numpy", "_codecs") or (parts[-1], name) not in allowed:
            raise pickle.UnpicklingError(f'it names "{module}.{name}"')
        return super().find_class(module, name)


def read_embeddings(path: Path) -> np.ndarray:
    """The embeddings of target and neutral text, [2, D], or their difference [D], as the change [D]. Raises FileError."""
    array = read_relevance(path)
    if array.ndim == 2 and len(array) == 2:
        target, neutral = (row / np.linalg.norm(row) for row in array)
        return np.asarray(target - neutral)
    if array.ndim != 1:
        raise FileError(f"{path} has shape {list(array.shape)}; expected [2, D], the embeddings of target and neutral text, or [D]")
    return array


def text_change(folder: Path, target: str, neutral: str, templates: Sequence[str]) -> np.ndarray:
    """How the embedding [D] changes from `neutral` to `target`, the mean over `templates` ("a photo of a {}.") of each.

    `folder`: CLIP's text encoder, `text_model.onnx` beside `tokenizer.json`. Raises SdicError.
    """
    encode = _encoder(folder)
    return np.asarray(_embedding(encode, target, templates) - _embedding(encode, neutral, templates))


def read_templates(path: Path) -> list[str]:
    """One template a line, each with {}; the text itself where there is no such file. Raises FileError."""
    if not path.exists():
        return ["{}"]
    lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not lines or any("{}" not in line for line in lines):
        raise FileError(f"{path} has a line without {{}}, where the text goes; get it again")
    return lines


def _embedding(encode: Any, text: str, templates: Sequence[str]) -> np.ndarray:
    rows = encode([template.replace("{}", text) for template in templates])
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    mean = rows.mean(0)
    return np.asarray(mean / np.linalg.norm(mean))


def _encoder(folder: Path) -> Any:
    """Texts -> their embeddings [n, D]."""
    import onnxruntime

    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise MissingExtraError("tokenizers", "clip", "reading words for CLIP") from None
    model = next((folder / name for name in TEXT_MODELS if (folder / name).is_file()), None)
    if model is None or not (folder / TOKENIZER).is_file():
        raise FileError(f"{folder} is no text encoder of CLIP: it needs {TEXT_MODELS[0]} and {TOKENIZER}")
    try:
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    except Exception as error:  # both libraries have exceptions of their own
        raise FileError(f"cannot read the text encoder in {folder}: {' '.join(str(error).split())[:200]}") from error
    tokenizer.enable_truncation(CONTEXT)
    names = [item.name for item in session.get_outputs()]
    output = next((name for name in ("text_embeds", "text_features") if name in names), names[0])
    inputs = [item.name for item in session.get_inputs()]
    end = tokenizer.token_to_id("<|endoftext|>") or 0

    def encode(texts: Sequence[str]) -> np.ndarray:
        found = []
        for text in texts:
            ids = tokenizer.encode(text).ids
            padded = np.array([ids + [end] * (CONTEXT - len(ids))], np.int64)
            mask = np.array([[1] * len(ids) + [0] * (CONTEXT - len(ids))], np.int64)
            given = {name: mask if "mask" in name else padded for name in inputs}
            found.append(np.asarray(session.run([output], given)[0], np.float32).reshape(1, -1))
        return np.concatenate(found)

    return encode
