"""Label maps that follow the image: a dense conditional random field.

Philipp Krähenbühl, Vladlen Koltun: Efficient Inference in Fully Connected CRFs with Gaussian Edge
Potentials, NeurIPS 2011, arXiv 1210.5644, through pydensecrf. Each pixel i has a unary energy U_i
and is tied to all others j by two kernels of positions p and colours c:

    k_1 = exp(-|p_i - p_j|^2 / 2 s^2)
    k_2 = exp(-|p_i - p_j|^2 / 2 s'^2 - |c_i - c_j|^2 / 2 r^2)
    K_m = D^-1/2 k_m D^-1/2                  D: the sums of its rows
    Q  <- softmax(-U + sum_m w_m K_m Q)      mean field with Potts potentials, from softmax(-U)

For a label map, U is -log p for the given label and -log((1 - p) / (n - 1)) for the others; for
probabilities it is -log of them, of 1e-5 at least.

Where we differ from the release: with a single label, an image without a class, it divides by 0.
There is nothing to decide then, and no CRF is run.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsss.config.refine import CRF

Image = npt.NDArray[np.uint8]


def crf_labels(image: Image, label: Tensor, n: int, config: CRF) -> Tensor:
    """A label map [H, W] with ids 0..n-1, all of which are possible, refined: uint8 [H, W].

    `image` is uint8 RGB [H, W, 3]. Raises ValueError for another size, for an id beyond, and
    without pydensecrf.
    """
    _check_size(image, label)
    if label.numel() and int(label.max()) >= n:
        raise ValueError(f"label holds the id {int(label.max())}: give 0..{n - 1}")
    if n == 1:
        return torch.zeros_like(label, dtype=torch.uint8)
    given = label.cpu().numpy() == np.arange(n)[:, None, None]
    right, wrong = -math.log(config.gt_prob), -math.log((1 - config.gt_prob) / (n - 1))
    found = _mean_field(image, np.where(given, right, wrong), config)
    return found.argmax(0).to(torch.uint8)


def crf_probabilities(image: Image, probs: Tensor, config: CRF) -> Tensor:
    """Probabilities of n labels, [n, H, W], refined: float32 of the same shape, on the CPU.

    `image` is uint8 RGB [H, W, 3]. Raises ValueError for another size, and without pydensecrf.
    """
    _check_size(image, probs[0])
    if len(probs) == 1:
        return torch.ones_like(probs, dtype=torch.float32, device="cpu")
    energy = -np.log(probs.cpu().numpy().clip(1e-5, 1))
    return _mean_field(image, energy, config)


def _mean_field(image: Image, unary: npt.NDArray[np.floating], config: CRF) -> Tensor:
    """Q after the iterations, float32 [n, H, W], of energies [n, H, W]."""
    try:
        from pydensecrf.densecrf import DenseCRF2D
    except ImportError as error:
        raise ValueError(
            "the CRF comes with the pip package pydensecrf2, which is not there for Python 3.13:"
            " install it on an older one"
        ) from error
    n, height, width = unary.shape
    crf = DenseCRF2D(width, height, n)
    crf.setUnaryEnergy(np.ascontiguousarray(unary.reshape(n, -1), dtype=np.float32))
    crf.addPairwiseGaussian(sxy=config.gaussian_sxy, compat=config.gaussian_compat)
    crf.addPairwiseBilateral(
        sxy=config.bilateral_sxy,
        srgb=config.bilateral_srgb,
        rgbim=np.ascontiguousarray(image),
        compat=config.bilateral_compat,
    )
    found = np.array(crf.inference(config.iterations), dtype=np.float32)
    return torch.from_numpy(found.reshape(n, height, width))


def _check_size(image: Image, plane: Tensor) -> None:
    if image.shape[:2] != tuple(plane.shape):
        raise ValueError(
            f"image is {image.shape[0]} x {image.shape[1]} but its labels are"
            f" {' x '.join(str(side) for side in plane.shape)}"
        )
