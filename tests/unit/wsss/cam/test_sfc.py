from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from wsss.cam.classifier import cam_source, load_net, save_net
from wsss.cam.sfc import (
    SFCNet,
    affinity,
    bank_images,
    distribution_coefficient,
    label_mask,
    pair_maps,
    prototype_maps,
    sfc_losses,
    training_maps,
    with_background,
)
from wsss.config.sfc import SFCTraining
from wsss.data.transforms import flip
from wsss.nets.backbones import Backbone, backbone
from wsss.training import seeded

TINY = SFCTraining(backbone="tiny", weights="random", detach_after=None)


def tiny_net(classes=4):
    with seeded(0):
        return SFCNet(backbone("tiny"), classes).eval()


def pointwise_net(stride=1, classes=4):
    """A network that sees each pixel alone, so that it mirrors its maps when the image is."""
    widths = (3, 6, 8, 10, 12)
    with seeded(1):
        layers = [
            nn.Sequential(nn.Conv2d(a, b, 1, stride if n == 3 else 1), nn.ReLU())
            for n, (a, b) in enumerate(pairwise(widths))
        ]
        return SFCNet(Backbone("pointwise", nn.Identity(), layers), classes).eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 24, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels():
    return torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])


def test_background_is_what_the_best_class_leaves():
    raw = torch.tensor([[[[2.0, 1.0, -1.0]], [[0.0, 0.0, 4.0]]]])
    found = with_background(raw)[0, :, 0]
    expected = torch.tensor([[0.0, 0.5, 0.0], [1.0, 0.5, 0.0], [0.0, 0.0, 1.0]])
    assert torch.allclose(found, expected, atol=2e-5)
    assert (found[0] > 0).all()


def test_affinity_of_a_case_done_by_hand():
    features = torch.tensor([[3.0, 0.0, 5.0, -2.0], [0.0, 2.0, 0.0, 0.0]]).view(1, 2, 2, 2)
    expected = torch.tensor(
        [[0.5, 0.0, 0.5, 0.0], [0.0, 1.0, 0.0, 0.0], [0.5, 0.0, 0.5, 0.0], [0.0, 0.0, 0.0, 1.0]]
    )
    assert torch.allclose(affinity(features)[0], expected, atol=1e-4)


def test_prototypes_of_a_case_done_by_hand():
    maps = torch.tensor([[0.9, 0.9, 0.9, 0.2], [0.5, 0.1, 0.1, 0.0], [0.3, 0.2, 0.4, 0.0]])
    features = torch.tensor([[1.0, 1.0, 0.0, -1.0], [0.0, 1.0, 2.0, 0.0]])
    shaped, hierarchy = maps.view(1, 3, 2, 2), features.view(1, 2, 2, 2)
    # Background x 0.3: the seeds are class 1 at cell 0, background at 1 and 3, class 2 at cell 2.
    found = prototype_maps(shaped, hierarchy, torch.ones(1, 3, 1, 1), 0.3).flatten(2)[0]
    diagonal = 2**-0.5
    expected = [[0.0, diagonal, 1.0, 0.0], [1.0, diagonal, 0.0, 0.0], [0.0, diagonal, 1.0, 0.0]]
    assert torch.allclose(found, torch.tensor(expected), atol=1e-6)
    # Class 2 is absent: cell 2 belongs to nobody. Of cells 1 and 3, the mask leaves background 3.
    mask = torch.ones(1, 3, 2, 2)
    mask[0, 2], mask[0, :, 0, 1] = 0, 0
    found = prototype_maps(shaped, hierarchy, mask, 0.3).flatten(2)[0]
    assert found[0].tolist() == pytest.approx([0, 0, 0, 1])
    assert found[1].tolist() == pytest.approx([1, diagonal, 0, 0])
    assert found[2].tolist() == [0, 0, 0, 0]
    # With the background at full weight class 1 wins nothing.
    assert not prototype_maps(shaped, hierarchy, torch.ones(1, 3, 1, 1), 1.0)[0, 1].any()


def test_cosines_equal_torch_s_own():
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(2, 3, 4, 5, generator=generator)
    hierarchy = torch.randn(2, 7, 4, 5, generator=generator)
    seeds = F.one_hot(maps.argmax(1), 3).movedim(-1, 1).float()
    prototypes = torch.einsum("bkhw,bdhw->bkd", seeds, hierarchy)
    cosines = F.cosine_similarity(hierarchy[:, None], prototypes[..., None, None], dim=2)
    found = prototype_maps(maps, hierarchy, torch.ones(1, 1, 1, 1), 1.0)
    assert torch.allclose(found, cosines.clamp(min=0), atol=1e-6)


def test_absent_classes_and_padding_are_nothing_in_training(images, labels):
    valid = torch.ones(2, 1, 24, 32)
    valid[:, :, :, 16:] = 0
    maps = training_maps(tiny_net(), images, labels, valid, TINY)
    assert maps.score.shape == (2, 4)
    for part in (maps.classifier, maps.prototype, maps.original):
        assert part.shape == (2, 5, 6, 8)
        assert (part >= 0).all()
        assert not part[0, [2, 4]].any()
        assert not part[1, [1, 2, 3]].any()
    assert not maps.original[..., 4:].any()
    assert maps.original[..., :4].any()


def test_an_empty_example_is_harmless(images, labels):
    net = tiny_net()
    images, labels = images.clone(), labels.clone()
    images[1], labels[1] = 0, 0
    valid = torch.ones(2, 1, 24, 32)
    valid[1] = 0
    maps = training_maps(net, images, labels, valid, TINY)
    assert not maps.classifier[1].any()
    assert not maps.prototype[1].any()
    sfc_losses(maps, maps, labels, torch.ones(4), 1.6, 0.8)["loss"].backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_gradients_stop_before_the_sides_and_behind_layer2(images, labels):
    def reached(part, detach_after):
        net = tiny_net()
        config = replace(TINY, detach_after=detach_after)
        valid = torch.ones(2, 1, 24, 32)
        getattr(training_maps(net, images, labels, valid, config), part).square().sum().backward()
        names = {n for n, p in net.named_parameters() if p.grad is not None}
        return {".".join(name.split(".")[:2]) for name in names}

    sides = {f"sfc.side{i}" for i in (1, 2, 3, 4)}
    late = {"backbone.layer3", "backbone.layer4"}
    assert reached("prototype", None) == sides
    assert reached("classifier", 2) == late | {"classifier.weight", "sfc.f9"}
    early = {"backbone.layer1", "backbone.layer2"}
    assert reached("classifier", None) == early | late | {"classifier.weight", "sfc.f9"}


def test_layers_may_lie_on_grids_of_their_own(images, labels):
    net = pointwise_net(stride=4)
    maps = training_maps(net, images, labels, torch.ones(2, 1, 24, 32), TINY)
    assert maps.classifier.shape == maps.prototype.shape == (2, 5, 24, 32)
    [pair] = pair_maps(net, images, labels[:1], bg_factor=0.3, compat="none").classifier
    assert pair.shape == (5, 24, 32)


def test_repaired_inference_is_training_s_and_the_release_s_is_not(images, labels):
    net = pointwise_net()
    image = images[:1] + flip(images[:1])  # it is its own mirror image
    label, pair = labels[:1], torch.cat([image, image])
    with torch.no_grad():
        learned = training_maps(net, image, label, torch.ones(1, 1, 24, 32), TINY)
        repaired, released = (
            pair_maps(net, pair, label, bg_factor=0.3, compat=c) for c in ("none", "release")
        )
    assert torch.allclose(repaired.original, learned.original, atol=1e-3)  # sums, over max + 1e-5
    assert torch.allclose(repaired.classifier, learned.classifier, atol=1e-3)
    assert not repaired.classifier[0, [2, 4]].any()
    assert released.classifier[0, [2, 4]].any()
    for maps in (repaired, released):
        assert not maps.prototype[0, [2, 4]].any()


def test_the_pair_may_come_in_either_order(images, labels):
    net, pair = tiny_net(), torch.cat([images[:1], flip(images[:1])])
    for compat in ("release", "none"):
        one, two = (
            pair_maps(net, p, labels[:1], bg_factor=0.3, compat=compat)
            for p in (pair, pair.flip(0))
        )
        assert torch.allclose(one.classifier, flip(two.classifier), atol=1e-5)


def test_label_masks_have_the_background_first(labels):
    assert label_mask(labels)[0, :, 0, 0].tolist() == [1, 1, 0, 1, 0]


def test_coefficients_lean_towards_the_ends_of_the_distribution():
    found = distribution_coefficient(torch.tensor([10, 12, 100]), 0.0)
    distances = torch.tensor([92 / 10, 90 / 12, 178 / 100])
    assert torch.allclose(found, distances / distances.mean())
    damped = distribution_coefficient(torch.tensor([10, 12, 100]), 50.0)
    assert damped[0] < found[0]
    assert damped.mean() == pytest.approx(1)


def test_classes_without_images_take_no_part_and_equal_ones_weigh_the_same():
    without = distribution_coefficient(torch.tensor([10, 0, 12, 100]), 0.0)
    assert without[1] == 0
    kept = distribution_coefficient(torch.tensor([10, 12, 100]), 0.0)
    assert torch.equal(without[[0, 2, 3]], kept)
    assert distribution_coefficient(torch.tensor([7, 7, 0]), 3.0).tolist() == [1, 1, 0]
    assert distribution_coefficient(torch.tensor([0, 0]), 3.0).tolist() == [0, 0]


def test_the_bank_adds_whole_images():
    assert bank_images(10582, 20, SFCTraining()) == 396
    assert bank_images(10582, 20, SFCTraining(n_bank=0)) == 0
    assert bank_images(64, 8, SFCTraining(bank_epochs=6.0)) == 12


def test_loss_weights_and_coefficients_scale_their_terms(images, labels):
    net = tiny_net()
    maps, half = (
        training_maps(net, x, labels, torch.ones(2, 1, 24, 32), TINY)
        for x in (images, images[..., ::2, ::2])
    )
    one = sfc_losses(maps, half, labels, torch.ones(4), 1.0, 1.0)
    two = sfc_losses(maps, half, labels, 2 * torch.ones(4), 3.0, 0.5)
    assert two["l_w"].item() == pytest.approx(one["l_w"].item())
    assert 3 * one["l_p"] < two["l_p"] < 6 * one["l_p"]  # the background's weight stays 1
    assert one["l_p"] > 0 < one["l_w"]
    assert two["loss"].item() == pytest.approx((two["bce"] + two["l_p"] + two["l_w"]).item())


def test_a_network_comes_back_from_its_file_and_is_a_plain_classifier_too(images, tmp_path):
    net = tiny_net()
    save_net(net, tmp_path / "net.safetensors")
    back = load_net(tmp_path / "net.safetensors", SFCNet)
    assert torch.equal(back.sfc["f9"].weight, net.sfc["f9"].weight)
    pair = torch.stack([images[0], flip(images[0])])
    maps = cam_source(back, back.classifier.weight)(pair, torch.tensor([0, 2]))
    assert maps.shape == (2, 6, 8)


def test_products_of_the_backbone_alone_may_be_rounded(images, labels):
    valid = torch.ones(2, 1, 24, 32)
    exact, rounded = (
        training_maps(tiny_net(), images, labels, valid, replace(TINY, precision=p)).classifier
        for p in ("float32", "bfloat16")
    )
    assert exact.dtype == rounded.dtype == torch.float32
    assert 0 < (exact - rounded).abs().max() < 0.1
