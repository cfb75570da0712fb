from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wsss.config.refine import CRF
from wsss.config.segment import Segmentation
from wsss.data import open_samples
from wsss.data.transforms import normalise, rescale
from wsss.nets.segmenters import Network, segmenter
from wsss.refine.crf import crf_probabilities
from wsss.segment.inference import label_map, probabilities, segment_images, wrapped

PLAIN = Segmentation(crf=None)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    made = segmenter(Network(architecture="deeplabv2", backbone="tiny", classes=4, pyramid=(0.5,)))
    for conv in made.classifier.convs:
        torch.nn.init.normal_(conv.weight, std=0.2)
    return made.eval()


@pytest.fixture(scope="module")
def image():
    return open_samples("scenes:images=9", "train").image(0)


def logits(net, image, scale=1.0, mirrored=False):
    seen = image[:, ::-1] if mirrored else image
    view = normalise(rescale(np.ascontiguousarray(seen), scale, "cubic"), net.mean, net.std)
    with torch.no_grad():
        found = F.interpolate(net(view[None])[-1], image.shape[:2], mode="bilinear")[0]
    return found.flip(-1) if mirrored else found


def test_one_view_is_the_softmax_of_the_enlarged_answer(net, image):
    found = probabilities(net, image, PLAIN)
    assert found.shape == (4, *image.shape[:2])
    torch.testing.assert_close(found, logits(net, image).softmax(0))
    assert found.amax(0).max() > 0.6


@pytest.mark.parametrize("fusion", ["max_logits", "mean_logits", "mean_probabilities"])
def test_views_are_made_one(net, image, fusion):
    config = Segmentation(scales=(1.0, 0.5, 1.5), flip=True, fusion=fusion, crf=None)
    views = torch.stack([logits(net, image, s, m) for s in config.scales for m in (False, True)])
    expected = {
        "max_logits": views.amax(0).softmax(0),
        "mean_logits": views.mean(0).softmax(0),
        "mean_probabilities": views.softmax(1).mean(0),
    }[fusion]
    found = probabilities(net, image, config)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (found - probabilities(net, image, PLAIN)).abs().max() > 0.01


def test_an_image_that_is_its_own_mirror_image_is_segmented_so(net, image):
    half = image[:, : image.shape[1] // 2]
    symmetric = np.concatenate([half, half[:, ::-1]], axis=1)
    config = replace(PLAIN, flip=True, fusion="mean_logits")
    found = probabilities(net, symmetric, config)
    torch.testing.assert_close(found, found.flip(-1), atol=1e-5, rtol=1e-4)
    alone = probabilities(net, symmetric, PLAIN)
    assert (alone - alone.flip(-1)).abs().max() > 1e-3


def test_the_label_map_is_the_most_likely_class(net, image):
    found = label_map(net, image, PLAIN)
    assert found.dtype == np.uint8
    assert np.array_equal(found, probabilities(net, image, PLAIN).argmax(0).numpy())
    assert len(np.unique(found)) > 1


@pytest.mark.parametrize("colours", ["image", "wrapped"])
def test_the_crf_sees_the_colours_it_is_given(net, image, colours):
    crf = CRF(iterations=3, bilateral_srgb=20, bilateral_sxy=20)
    found = label_map(net, image, Segmentation(crf=crf, crf_colours=colours))
    seen = image if colours == "image" else wrapped(image)
    expected = crf_probabilities(seen, probabilities(net, image, PLAIN), crf).argmax(0)
    assert np.array_equal(found, expected.numpy())
    assert not np.array_equal(found, label_map(net, image, PLAIN))


def test_wrapped_colours_by_hand():
    pixel = np.array([[[200, 117, 10]]], dtype=np.uint8)  # red, green, blue
    assert wrapped(pixel).tolist() == [[[162, 0, 77]]]


def test_images_are_segmented_one_after_the_other(net):
    samples = open_samples("scenes:images=9", "train")
    asked = iter([4, 2])
    found = segment_images(net, samples, asked, PLAIN)
    name, label = next(found)
    assert name == samples.ids[4]
    assert label.shape == samples.image(4).shape[:2]
    assert next(asked) == 2  # nothing was read ahead
    assert np.array_equal(label, label_map(net, samples.image(4), PLAIN))
