import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from wsss.config.refine import CRF, DEEPLAB_CRF, PSA_CRF
from wsss.refine.crf import crf_labels, crf_probabilities


def picture(seed=0):
    """Two smooth regions of 12 x 12 pixels with a little noise, and where the second is."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:12, :12]
    inside = (y - 5) ** 2 + (x - 6) ** 2 < 14
    colours = np.where(inside[..., None], (200, 90, 60), (60, 120, 180))
    return (colours + rng.integers(-2, 3, (12, 12, 3))).astype(np.uint8), inside


def kernel(features):
    """exp(-|f_i - f_j|^2 / 2) with the square roots of its row sums divided out on both sides."""
    apart = ((features[:, None] - features[None]) ** 2).sum(-1)
    weights = np.exp(-apart / 2)
    scale = 1 / np.sqrt(weights.sum(1))
    return scale[:, None] * weights * scale


def mean_field(image, unary, config):
    """The fully connected CRF pair by pair, in float64: unary [n, H, W] to Q of its shape."""
    height, width = image.shape[:2]
    y, x = (grid.reshape(-1, 1) for grid in np.mgrid[:height, :width])
    places, colours = np.hstack([x, y]), image.reshape(-1, 3).astype(float)
    smooth = kernel(places / config.gaussian_sxy)
    both = [places / config.bilateral_sxy, colours / config.bilateral_srgb]
    messages = config.gaussian_compat * smooth + config.bilateral_compat * kernel(np.hstack(both))
    energy = unary.reshape(len(unary), -1)
    q = softmax(-energy)
    for _ in range(config.iterations):
        q = softmax(-energy + q @ messages)
    return q.reshape(unary.shape)


def softmax(logits):
    shifted = np.exp(logits - logits.max(0))
    return shifted / shifted.sum(0)


@pytest.mark.parametrize("config", [CRF(), PSA_CRF, DEEPLAB_CRF, CRF(iterations=1)])
@pytest.mark.parametrize("n", [2, 3])
def test_marginals_are_near_those_of_all_pairs(config, n):
    # The lattice on which the package filters approximates the kernels; without the messages, the
    # marginals would be 0.28 away on average.
    image, inside = picture()
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 0.7, (n, 12, 12))
    logits[:2] += np.stack([~inside, inside])
    probs = softmax(logits)
    found = crf_probabilities(image, torch.from_numpy(probs).float(), config).numpy()
    expected = mean_field(image, -np.log(probs), config)
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)
    assert np.abs(softmax(logits) - expected).mean() > 0.2
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.02)
    np.testing.assert_array_equal(found.argmax(0), expected.argmax(0))


@pytest.mark.parametrize("gt_prob", [0.55, 0.7, 0.95])
def test_labels_are_trusted_as_much_as_told(gt_prob):
    image, inside = picture()
    label = np.where(inside, 2, 0)
    label[np.random.default_rng(2).random(label.shape) < 0.2] = 1
    config = replace(CRF(), gt_prob=gt_prob)
    probs = np.where(label == np.arange(3)[:, None, None], gt_prob, (1 - gt_prob) / 2)
    found = crf_labels(image, torch.from_numpy(label), 3, config)
    soft = crf_probabilities(image, torch.from_numpy(probs), config)
    assert found.dtype == torch.uint8
    assert torch.equal(found.long(), soft.argmax(0))
    expected = mean_field(image, -np.log(probs), config)
    np.testing.assert_allclose(soft.numpy(), expected, rtol=0, atol=0.02)


def test_a_ragged_label_comes_to_follow_the_colours():
    image, inside = picture()
    label = np.roll(inside, 1, axis=1)
    label[np.random.default_rng(0).random(label.shape) < 0.1] ^= True
    found = crf_labels(image, torch.from_numpy(label).to(torch.uint8), 2, CRF()).numpy()
    assert (label != inside).sum() > 12
    np.testing.assert_array_equal(found == 1, inside)


def test_the_same_input_gives_the_same_bits():
    image, inside = picture()
    probs = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(0)).softmax(0)
    first, second = (crf_probabilities(image, probs, CRF()) for _ in range(2))
    assert torch.equal(first, second)
    label = torch.from_numpy(inside).long()
    assert torch.equal(crf_labels(image, label, 2, CRF()), crf_labels(image, label, 2, CRF()))


def test_certain_probabilities_are_no_infinite_energy():
    image, inside = picture()
    probs = torch.from_numpy(np.stack([~inside, inside])).float()
    found = crf_probabilities(image, probs, CRF())
    assert found.isfinite().all()
    np.testing.assert_array_equal(found.argmax(0).numpy() == 1, inside)


def without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)


def test_an_image_without_a_class_is_background_and_needs_no_crf(monkeypatch):
    without_the_package(monkeypatch)
    image, _ = picture()
    found = crf_labels(image, torch.zeros(12, 12, dtype=torch.uint8), 1, CRF())
    assert found.shape == (12, 12)
    assert not found.any()
    certain = torch.ones(1, 12, 12)
    assert torch.equal(crf_probabilities(image, certain, CRF()), certain)


def test_a_missing_package_is_named(monkeypatch):
    without_the_package(monkeypatch)
    image, inside = picture()
    with pytest.raises(ValueError, match="the CRF comes with the pip package pydensecrf2"):
        crf_labels(image, torch.from_numpy(inside).long(), 2, CRF())


def test_labels_that_do_not_fit_are_refused():
    image, inside = picture()
    with pytest.raises(ValueError, match="image is 12 x 12 but its labels are 12 x 11"):
        crf_labels(image, torch.zeros(12, 11).long(), 2, CRF())
    with pytest.raises(ValueError, match="image is 12 x 12 but its labels are 3 x 12"):
        crf_probabilities(image, torch.ones(2, 3, 12), CRF())
    with pytest.raises(ValueError, match=r"label holds the id 255: give 0\.\.1"):
        crf_labels(image, torch.from_numpy(255 * inside), 2, CRF())
