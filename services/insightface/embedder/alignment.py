"""Cut aligned face crops out of images by their landmarks."""

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float32]

# Positions of the five landmarks in ArcFace's training crops of 112 pixels (arXiv 1801.07698; the values
# are those of insightface.utils.face_align.arcface_dst).
ARCFACE_TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]],
    dtype=np.float32,
)


def template(size: int, zoom: float, down: float = 0.0) -> Points:
    """Return the landmarks' target positions [5, 2] in a square crop of `size` pixels.

    zoom : 1 is ArcFace's crop; a smaller value shows more around the face.
    down : share of the crop by which the face is moved down, which shows more of the hair.
    """
    centred = (ARCFACE_TEMPLATE - 56) * zoom + 56
    centred[:, 1] += down * 112
    return np.asarray(centred * (size / 112), dtype=np.float32)


def similarity(source: Points, target: Points) -> npt.NDArray[np.float32]:
    """Return rotation, scale and translation [2, 3] that best map source to target [n, 2] (least squares).

    Umeyama 1991, doi:10.1109/34.88573, without reflection, written with complex numbers.
    """
    a = source[:, 0] + 1j * source[:, 1]
    b = target[:, 0] + 1j * target[:, 1]
    a_mean, b_mean = a.mean(), b.mean()
    factor = np.vdot(a - a_mean, b - b_mean) / max(float(np.vdot(a - a_mean, a - a_mean).real), 1e-12)
    shift = b_mean - factor * a_mean
    return np.array(
        [[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]], dtype=np.float32
    )


def crop(image: Image, matrix: npt.NDArray[np.float32], size: int) -> Image:
    """Cut out the square of `size` pixels that `matrix` maps the image to, repeating edge pixels.

    A face much larger than the crop is first shrunk by area, since bilinear sampling would alias.
    """
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if scale < 0.5:
        shrink = max(scale * 1.5, 1.0 / max(image.shape[:2]))
        corners = _corners_in_image(matrix, size, image.shape[:2])
        left, top, right, bottom = corners
        if right > left and bottom > top:
            part = image[top:bottom, left:right]
            width, height = max(1, round(part.shape[1] * shrink)), max(1, round(part.shape[0] * shrink))
            image = np.asarray(cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
            ratio = np.array([[part.shape[1] / width, 0], [0, part.shape[0] / height]], dtype=np.float32)
            offset = matrix[:, :2] @ np.array([left, top], dtype=np.float32) + matrix[:, 2]
            matrix = np.concatenate([matrix[:, :2] @ ratio, offset[:, None]], axis=1)
    return np.asarray(
        cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE),
        dtype=np.uint8,
    )


def _corners_in_image(
    matrix: npt.NDArray[np.float32], size: int, shape: tuple[int, ...]
) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the part of the image that the crop shows."""
    inverse = cv2.invertAffineTransform(matrix)
    corners = np.array([[0, 0, 1], [size, 0, 1], [0, size, 1], [size, size, 1]], np.float32) @ inverse.T
    low, high = np.floor(corners.min(axis=0)) - 2, np.ceil(corners.max(axis=0)) + 2
    return (
        int(np.clip(low[0], 0, shape[1])),
        int(np.clip(low[1], 0, shape[0])),
        int(np.clip(high[0], 0, shape[1])),
        int(np.clip(high[1], 0, shape[0])),
    )


def sharpness(aligned: Image) -> float:
    """Return the variance of the Laplacian of an aligned 112-pixel RGB crop; low means blurred.

    Pech-Pacheco et al. 2000, doi:10.1109/ICPR.2000.903548.
    """
    grey = cv2.cvtColor(aligned, cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(grey, cv2.CV_32F).var())
