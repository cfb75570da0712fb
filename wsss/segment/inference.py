"""From a segmentation network to label maps: several views made one, and a CRF.

    z_v = logits of a view v: the image at a scale, mirrored or not     enlarged bilinearly to it
    p   = softmax max_v z_v                                             "max_logits"
        = softmax mean_v z_v                                            "mean_logits"
        = mean_v softmax z_v                                            "mean_probabilities"
    label = argmax p, or argmax CRF(p)

DeepLabV2 takes the maximum over its own pyramid, one view; DeepLabV3+ the mean over scales and
mirror images. The CRF follows the image's colours. The release of DeepLabV2 hands it the network's
input instead, which its cast to bytes distorts: `crf_colours` can do as much.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from wsss.config.segment import Segmentation
from wsss.data.samples import Samples
from wsss.data.transforms import flip, normalise, rescale
from wsss.nets.deeplab import CAFFE_MEAN
from wsss.nets.segmenters import Segmenter
from wsss.refine.crf import crf_probabilities
from wsss.training import mixed

Bytes = npt.NDArray[np.uint8]


def segment_images(
    net: Segmenter, samples: Samples, indices: Iterable[int], config: Segmentation
) -> Iterator[tuple[str, Bytes]]:
    """The id and label map of each image at `indices`, one after the other, for `write_labels`."""
    for i in indices:
        yield samples.ids[i], label_map(net, samples.image(i), config)


def label_map(net: Segmenter, image: Bytes, config: Segmentation) -> Bytes:
    """The label map of an image, uint8 [H, W], by a network in evaluation mode, where it lies.

    `image` is uint8 RGB [H, W, 3].
    """
    found = probabilities(net, image, config)
    if config.crf is not None:
        seen = image if config.crf_colours == "image" else wrapped(image)
        found = crf_probabilities(seen, found, config.crf)
    label: Bytes = found.argmax(0).to(torch.uint8).cpu().numpy()
    return label


@torch.inference_mode()
def probabilities(net: Segmenter, image: Bytes, config: Segmentation) -> Tensor:
    """p of an image, float32 [K, H, W], where the network lies; two planes of K are held at most.

    `image` is uint8 RGB [H, W, 3].
    """
    total, views = None, 0
    for logits in _views(net, image, config):
        views += 1
        found = logits.softmax(0) if config.fusion == "mean_probabilities" else logits
        if total is None:
            total = found
        elif config.fusion == "max_logits":
            total = torch.maximum(total, found)
        else:
            total += found
    assert total is not None  # a configuration has a scale
    if config.fusion == "max_logits":
        return total.softmax(0)
    mean = total / views
    return mean if config.fusion == "mean_probabilities" else mean.softmax(0)


def _views(net: Segmenter, image: Bytes, config: Segmentation) -> Iterator[Tensor]:
    """Logits of each view at the image's size and un-mirrored, float32 [K, H, W]."""
    size = (image.shape[0], image.shape[1])
    device = next(net.parameters()).device
    for scale in config.scales:
        view = normalise(rescale(image, scale, "cubic"), net.mean, net.std).to(device)
        for mirrored in (False, True) if config.flip else (False,):
            with mixed(config.precision, device):
                logits = net((flip(view) if mirrored else view)[None])[-1]
            whole = F.interpolate(logits, size, mode="bilinear")[0]
            yield flip(whole) if mirrored else whole


def wrapped(image: Bytes) -> Bytes:
    """Caffe's input of RGB [H, W, 3], cast to bytes: BGR, in which 10 of blue becomes 162."""
    mean = np.array(CAFFE_MEAN[::-1]) * 255
    cast: Bytes = (image[..., ::-1] - mean).astype(np.int64).astype(np.uint8)
    return cast
