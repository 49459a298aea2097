"""Pictures in and out: decoding any common file, bringing it to the working size as the release does, and back to 8 bits."""

from __future__ import annotations

import io
import os
import re
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TypeAlias

import numpy as np

from sdic_runtime.decoding.pixels import BYTE_LIMIT, PIXEL_LIMIT, SIDE_LIMIT, as_rgb, orientation_of, pixel_limit, turned, without_metadata
from sdic_runtime.decoding.shapes import SQUASH, shaped
from sdic_runtime.errors import ArgumentError, OutOfMemoryError, PictureError, SdicError, printable
from sdic_runtime.files import reason

if TYPE_CHECKING:
    from PIL.Image import Image


class ArrayLike(Protocol):
    """What numpy can read: an array, a torch tensor."""

    def __array__(self) -> np.ndarray: ...


PictureLike: TypeAlias = "str | os.PathLike[str] | Image | np.ndarray | ArrayLike"  # see `prepare`

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")  # decoders that run no other program
HEIF = "HEIF"  # of pillow-heif, where that is installed
# The kinds of ISO media files that hold HEIC pictures, at bytes 8 to 12.
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
RANGE_SLACK = 1e-3  # how far beyond [-1, 1] a float picture may be, for rounding

FIRST_TURNED = 5  # EXIF orientations from which width and height change places
_warnings_lock = threading.Lock()


def load_picture(path: str | os.PathLike[str], profiles: bool = True) -> Image:
    """Decode a picture file to an upright 8-bit RGB image.

    The EXIF orientation is applied; colour profiles are converted to sRGB (with `profiles=False` they are ignored, as in the release);
    transparency is composited on white; 16-bit gray is scaled to 8 bits (16-bit colour loses its low byte in the decoder); of an animation
    the first frame is taken. Damaged metadata is ignored. Raises PictureError for what is missing, unreadable, damaged, not a picture, or
    larger than the limits of `decoding`.
    """
    with opened_file(path) as image:
        colours, orientation = as_rgb(image, str(path), profiles), orientation_of(image)
    del image  # turning needs as much memory again
    return turned(colours, orientation)


def decode_picture(stream: BinaryIO, name: str = "the picture", limit: int = PIXEL_LIMIT, profiles: bool = True) -> Image:
    """Decode an open file, or bytes in an io.BytesIO, as `load_picture` does; `name` is what errors call it. Raises PictureError for more
    than `limit` pixels, before anything is decoded."""
    with opened(stream, name, limit) as image:
        colours, orientation = as_rgb(image, name, profiles), orientation_of(image)
    del image
    return turned(colours, orientation)


def picture_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Width and height of a picture file as a person sees it, from its header. Raises PictureError."""
    with opened_file(path, decode=False) as image:
        return (image.height, image.width) if orientation_of(image) >= FIRST_TURNED else image.size


@contextmanager
def opened_file(path: str | os.PathLike[str], decode: bool = True) -> Iterator[Image]:
    """The decoded image of a picture file, or of a pipe, as it is in there; see `opened`. Raises PictureError."""
    path = Path(path)
    try:
        with path.open("rb") as stream:
            whole = stream if stream.seekable() else io.BytesIO(_all_of(stream, str(path)))  # a pipe is read whole
            with opened(whole, str(path), decode=decode) as image:
                yield image
    except FileNotFoundError:
        raise PictureError(f"there is no picture at {path}") from None
    except IsADirectoryError:
        raise PictureError(f"{path} is a folder; name a picture file") from None
    except OSError as error:
        raise PictureError(f"cannot read {path}: {reason(error)}") from error
    except SdicError:
        raise
    except ValueError as error:  # a path that no system has, such as one with a zero byte
        raise PictureError(f"cannot read {str(path)!r}: {error}") from error


@contextmanager
def opened(stream: BinaryIO, name: str = "the picture", limit: int = PIXEL_LIMIT, decode: bool = True) -> Iterator[Image]:
    """The image in an open file, decoded (or with its header alone), as it is in there. What goes wrong with it in the block too becomes a
    PictureError, or an OutOfMemoryError."""
    from PIL import Image

    try:
        if not stream.read(1):
            raise PictureError(f"{name} is empty (0 bytes); get the picture again")
        try:
            image = _loaded(stream, name, limit, decode)
        except (MemoryError, Image.DecompressionBombError):
            raise
        except Exception:
            if (pixels_alone := without_metadata(stream)) is None:
                raise
            image = _loaded(pixels_alone, name, limit, decode)
        with image:
            yield image
    except SdicError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        pixels = re.search(r"\d+", str(error))
        _check_pixels(int(pixels.group()) if pixels else limit + 1, name, limit)
        raise PictureError(f"{name} is too large: {error}") from error
    except MemoryError as error:
        raise OutOfMemoryError(f"not enough memory to decode {name}; make the picture smaller") from error
    except Exception as error:  # a damaged file fails in as many ways as there are decoders
        raise PictureError(f"{name} is damaged: {printable(str(error), 200) or type(error).__name__}; get the picture again") from error


def _all_of(stream: BinaryIO, name: str) -> bytes:
    """What comes through a pipe, to its end."""
    data = stream.read(BYTE_LIMIT + 1)
    if len(data) > BYTE_LIMIT:
        raise PictureError(f"{name} has more than {BYTE_LIMIT} bytes; give a picture")
    return data


def _loaded(stream: BinaryIO, name: str, limit: int, decode: bool) -> Image:
    """The image in an open file, within the limits, decoded or with its header alone."""
    stream.seek(0)
    image = _open(stream, name)
    _check_size(*image.size, name, min(limit, pixel_limit(image)))
    if decode:
        image.load()
    return image


def _open(stream: BinaryIO, name: str) -> Image:
    """The file's header, with the warning about large pictures off: `_check_size` decides."""
    from PIL import Image, UnidentifiedImageError

    Image.init()
    heic = _is_heic(stream)
    if heic and HEIF not in Image.OPEN:
        _register_heic(name)
    try:
        with _warnings_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(stream, formats=[kind for kind in (*FORMATS, HEIF) if kind in Image.OPEN])
    except UnidentifiedImageError:
        raise PictureError(f"{name} is not a picture this program can read; use {', '.join(FORMATS)}") from None


def _is_heic(stream: BinaryIO) -> bool:
    start = stream.read(12)
    stream.seek(0)
    return start[4:8] == b"ftyp" and start[8:12] in HEIC_BRANDS


def _register_heic(name: str) -> None:
    """Have Pillow use the decoder of pillow-heif. Raises PictureError where that is not installed."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        advice = 'install its decoder with: pip install "sdic-toolkit[heic]", or save the picture as JPEG'
        raise PictureError(f"{name} is a HEIC picture, as phones make them; {advice}") from None
    register_heif_opener()


def _check_size(width: int, height: int, name: str, limit: int = PIXEL_LIMIT) -> None:
    _check_pixels(width * height, name, limit)
    if max(width, height) > SIDE_LIMIT:
        raise PictureError(f"{name} is {width} x {height}, and the longest side is {SIDE_LIMIT}; make the picture smaller")


def _check_pixels(pixels: int, name: str, limit: int) -> None:
    if pixels > limit:
        raise PictureError(f"{name} has {pixels / 1e6:.0f} megapixels, and the limit is {limit / 1e6:.0f}; make the picture smaller")


def to_rgb(image: Image, name: str = "the picture", profiles: bool = True) -> Image:
    """An upright 8-bit RGB copy of a decoded image of any mode; see `load_picture`. Raises PictureError."""
    return turned(as_rgb(image, name, profiles), orientation_of(image))


def prepare(
    picture: PictureLike,
    sizes: Mapping[str, int],
    visible_rows: tuple[int, int],
    resampling: str = "bilinear",
    profiles: bool = True,
    shape: str | None = SQUASH,
    aligned: bool = False,
) -> np.ndarray:
    """The network's input for one picture: float32 [1, 3, S, S] in [-1, 1] (or [N, 3, S, S] for a float32 array of N pictures).

    `picture`: a path; a PIL image; a uint8 array [H, W, 3] (also [H, W], [H, W, 1], [H, W, 4]) of any size; or a float32 array
    [N, 3, S, S] in [-1, 1], taken as it is; tensors of PyTorch count as arrays. `sizes` has R and S. Resized with Pillow's `resampling`
    filter, bilinear in the release; where `visible_rows` are not the whole generated picture, resized to S x (visible part of S) and
    letterboxed with black. `profiles`: see `load_picture`. `shape`, `aligned`: what becomes of a picture of another shape, see
    `shapes.shaped`. Raises PictureError, ArgumentError for what is no picture, or OutOfMemoryError.
    """
    try:
        image = _decoded(picture, sizes["S"], profiles)
        if isinstance(image, np.ndarray):
            return image
        name = str(picture) if isinstance(picture, str | os.PathLike) else "the picture"
        return fit(shaped(image, name, sizes, visible_rows, shape, aligned), sizes, visible_rows, resampling)
    except MemoryError as error:
        name = str(picture) if isinstance(picture, str | os.PathLike) else "the picture"
        raise OutOfMemoryError(f"not enough memory to prepare {name}; make it smaller") from error


def stream_of(pictures: Iterable[PictureLike]) -> Iterator[PictureLike]:
    """The pictures one by one, also those of one array. Raises ArgumentError for what is no stream, or one picture."""
    array: Any = pictures
    if hasattr(array, "__array__") and hasattr(array, "shape"):
        if len(array.shape) < 4:  # the rows of an array [H, W, 3] are no pictures
            given = f"an array of shape {list(array.shape)}"
            raise ArgumentError(f"the pictures are {given}; give [N, H, W, 3] or [N, 3, S, S], a list of pictures, or call invert for one")
        if len(array.shape) == 4 and not str(array.dtype).endswith("uint8"):  # also a tensor's
            return (array[index : index + 1] for index in range(len(array)))
    elif isinstance(pictures, str | os.PathLike) or not isinstance(pictures, Iterable):
        raise ArgumentError(f"the pictures are {pictures!r:.60}; give a list or another iterable of pictures, or call invert for one")
    return iter(pictures)


def _decoded(picture: PictureLike, side: int, profiles: bool) -> Image | np.ndarray:
    """A picture as RGB, or the array of pictures of `side` that it is already."""
    from PIL import Image

    if isinstance(picture, str | os.PathLike):
        return load_picture(picture, profiles)
    if isinstance(picture, Image.Image):
        _check_size(*picture.size, "the picture")
        decoded = _copied(picture, profiles)
        if 0 in decoded.size:
            raise PictureError(f"the picture is {decoded.width} x {decoded.height}; give one of at least one pixel")
        return decoded
    if hasattr(picture, "__array__"):
        array = _as_array(picture)
        return _from_bytes(array) if array.dtype == np.uint8 else _check_floats(array, side).copy()  # the caller's own may change
    forms = "a path, a PIL image, a uint8 array [H, W, 3] or a float32 array [N, 3, S, S]"
    raise ArgumentError(f"a picture cannot be made from {type(picture).__name__}; give {forms}")


def _copied(picture: Image, profiles: bool) -> Image:
    """An RGB copy of a PIL image, which may be one that is read from its file only now."""
    try:
        return to_rgb(picture, profiles=profiles)
    except SdicError:
        raise
    except MemoryError as error:
        raise OutOfMemoryError("not enough memory to decode the picture; make it smaller") from error
    except Exception as error:  # it was closed, or its file is damaged
        raise PictureError(f"the picture cannot be read: {str(error) or type(error).__name__}; open it again") from error


def _as_array(picture: Any) -> np.ndarray:
    """An array, or a tensor of PyTorch: wherever it is, with a gradient or not, of any floating type."""
    try:
        if hasattr(picture, "detach"):
            tensor = picture.detach().cpu()
            picture = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        return np.asarray(picture)
    except (TypeError, ValueError, RuntimeError) as error:
        raise PictureError(f"the {type(picture).__name__} cannot be read as an array: {' '.join(str(error).split())[:200]}") from error


def fit(image: Image, sizes: Mapping[str, int], visible_rows: tuple[int, int], resampling: str = "bilinear") -> np.ndarray:
    """An RGB image resized (and letterboxed) to float32 [1, 3, S, S] in [-1, 1]."""
    from PIL import Image

    side, kind = sizes["S"], Image.Resampling[resampling.upper()]
    first, end = working_rows(sizes, visible_rows)
    # In two steps: Pillow 13 resizes tall pictures vertically first, older releases (and the SDIC release with them) always horizontally.
    narrowed = image.resize((side, image.height), kind)
    resized = np.asarray(narrowed.resize((side, end - first), kind), np.float32)
    square = np.full((side, side, 3), -1, np.float32)
    square[first:end] = resized / np.float32(127.5) - 1
    return np.ascontiguousarray(square.transpose(2, 0, 1))[None]


def working_rows(sizes: Mapping[str, int], visible_rows: tuple[int, int]) -> tuple[int, int]:
    """The visible rows (first, end) at the working size."""
    return visible_rows[0] * sizes["S"] // sizes["R"], visible_rows[1] * sizes["S"] // sizes["R"]


def _from_bytes(array: np.ndarray) -> Image:
    from PIL import Image

    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in array.shape:
        raise PictureError(f"the uint8 picture has shape {list(array.shape)}; expected [H, W, 3]")
    _check_size(array.shape[1], array.shape[0], "the picture")  # before it is copied
    return to_rgb(Image.fromarray(array[..., 0] if array.ndim == 3 and channels == 1 else array))


def _check_floats(array: np.ndarray, side: int) -> np.ndarray:
    if array.dtype != np.float32:
        raise PictureError(f"the picture array has type {array.dtype}; use uint8 [H, W, 3] or float32 [N, 3, {side}, {side}] in [-1, 1]")
    if array.ndim != 4 or array.shape[1:] != (3, side, side) or array.shape[0] < 1:
        raise PictureError(f"the float32 picture has shape {list(array.shape)}; expected [N, 3, {side}, {side}]")
    low, high = float(array.min()), float(array.max())
    if not (low >= -1 - RANGE_SLACK and high <= 1 + RANGE_SLACK):
        raise PictureError(f"the float32 picture has values from {low:g} to {high:g}; expected [-1, 1] without NaN")
    return np.ascontiguousarray(array)


def to_bytes(pixels: np.ndarray, rows: tuple[int, int] | None = None) -> np.ndarray:
    """uint8 [N, H, W, 3] from float32 [N, 3, H, W]: clamped to [-1, 1], (x + 1) * 127.5 rounded; only `rows` (first, end) when given.
    Raises PictureError when a value is not finite, which a float16 overflow leaves behind."""
    if rows is not None:
        pixels = pixels[:, :, slice(*rows)]
    if not np.isfinite(pixels).all():
        raise PictureError("the generated picture holds NaN or infinite values; run with precision fp32, or see: sdic-export verify DIR")
    scaled = (np.clip(pixels, -1, 1) + np.float32(1)) * np.float32(127.5)
    return np.ascontiguousarray(np.rint(scaled).astype(np.uint8).transpose(0, 2, 3, 1))


def to_images(pixels: np.ndarray, rows: tuple[int, int] | None = None) -> list[Image]:
    """PIL images of float32 [N, 3, H, W]; see `to_bytes`."""
    from PIL import Image

    return [Image.fromarray(picture) for picture in to_bytes(pixels, rows)]
