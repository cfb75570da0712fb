from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wsss.cam.advcam import advcam_planes, advcam_source, climbed, objective, region, stepped
from wsss.cam.classifier import CAMNet, cam_source
from wsss.cam.recam import ReCAMNet, extraction_weight
from wsss.cam.scores import mirrored_sum, score_planes
from wsss.config.advcam import AdvCAM
from wsss.data.transforms import flip, normalise, rescale
from wsss.nets.backbones import backbone

SHORT = AdvCAM(iterations=4, iterations_small=2)
KEYS = torch.tensor([1, 4])


@pytest.fixture
def net() -> CAMNet:
    torch.manual_seed(0)
    return CAMNet(backbone("tiny"), 6).eval()


def pair_of(height=32, width=44, seed=0):
    view = torch.randn(3, height, width, generator=torch.Generator().manual_seed(seed))
    return torch.stack([view, flip(view)])


def weight_of(net):
    return net.classifier.weight.detach()


def looking(net, weight):
    return lambda view: F.conv2d(net.backbone(view)[-1], weight)


def grad_cam(features, z, key):
    """R by the release's way: a backward pass to the features, and constants made of it."""
    target = F.relu(z).sum((2, 3))[:, key].sum()
    [gradient] = torch.autograd.grad(target, features, retain_graph=True)
    channels = gradient.sum((2, 3)) / ((gradient > 0).sum() + 1e-12)
    return mirrored_sum(F.relu((channels[:, :, None, None] * features).sum(1)))


def test_the_region_is_the_grad_cam_of_a_backward_pass(net):
    features, weight = net(pair_of()), weight_of(net)
    z = F.conv2d(features, weight)
    for key in range(6):
        expected = grad_cam(features, z, key)
        assert expected.max() > 0
        assert torch.allclose(region(z[:, key], weight[key]), expected, rtol=1e-5, atol=1e-8)


def test_a_class_that_is_seen_nowhere_has_an_empty_region():
    found = region(-torch.ones(2, 4, 5), torch.ones(7, 1, 1))
    assert found.shape == (4, 5)
    assert not found.any()


@pytest.mark.parametrize("compat", ["none", "release"])
@pytest.mark.parametrize("regularisation", [7.0, 70.0])
def test_a_climb_is_the_one_done_step_by_step(net, compat, regularisation):
    """In double precision: in float32, rounding may send a climb elsewhere."""
    net = net.double()
    config = AdvCAM(regularisation=regularisation, compat=compat, step=0.3)
    pair, weight, key = pair_of().double(), weight_of(net), torch.tensor(2)
    view, total, start = pair.clone(), torch.zeros(8, 11).double(), None
    for _ in range(12):
        view = view.detach().requires_grad_()
        features = net.backbone(view)[-1]
        z = F.conv2d(features, weight)
        found = grad_cam(features, z, key)
        start = found.detach() if start is None else start
        total += found.detach()
        mean = F.relu(z).mean((2, 3))
        others = [k for k in range(6) if k != key]
        moved = (found - start).abs()[found / found.max() > 0.5].sum()
        goal = mean[:, key].sum() - mean[:, others].sum() - regularisation * moved
        [gradient] = torch.autograd.grad(goal, view)
        held = view if compat == "release" else pair
        low, high = held.min().item(), held.max().item()
        length = gradient.abs().max() + 1e-12
        view = (view + 0.3 * gradient / length).clamp(low, high)
    found = climbed(looking(net, weight), pair, key, weight[key], 12, config)
    assert torch.allclose(found, total, rtol=1e-9, atol=0)


def test_the_class_gains_and_the_others_do_not(net):
    pair, weight, key = pair_of(), weight_of(net), torch.tensor(3)
    config = AdvCAM(regularisation=0.0)
    look, view = looking(net, weight), pair
    with torch.no_grad():
        first = region(look(pair)[:, key], weight[key])
    scores = []
    for _ in range(8):
        view = view.detach().requires_grad_()
        z = look(view)
        goal = objective(z, key, region(z[:, key], weight[key]), first, config)
        scores.append(goal.item())
        [gradient] = torch.autograd.grad(goal, view)
        view = stepped(view.detach(), gradient, config.step, pair)
    assert scores[-1] > scores[0] + 0.01
    mean = F.relu(look(pair)).mean((2, 3)).sum(0)
    assert scores[0] == pytest.approx((mean[3] - mean[[0, 1, 2, 4, 5]].sum()).item(), abs=1e-6)


def test_the_penalty_is_nothing_at_first_and_counts_high_cells_alone():
    z, key = torch.zeros(2, 3, 1, 4), torch.tensor(0)
    first = torch.tensor([[1.0, 0.6, 0.5, 0.1]])
    assert objective(z, key, first, first, AdvCAM()).item() == 0
    seen = torch.tensor([[1.2, 0.5, 0.7, 0.9]], requires_grad=True)
    loss = objective(z, key, seen, first, AdvCAM())
    assert loss.item() == pytest.approx(-7 * (0.2 + 0.2 + 0.8), abs=1e-6)  # 0.5 is below 0.6
    loss.backward()
    assert seen.grad.tolist() == [[-7.0, 0.0, -7.0, -7.0]]
    again = first.clone().requires_grad_()
    objective(z, key, again, first, AdvCAM()).backward()
    assert not again.grad.any()


def test_a_step_is_bounded_and_stays_in_the_range():
    pair = pair_of()
    gradient = torch.randn(pair.shape, generator=torch.Generator().manual_seed(1))
    moved = stepped(pair, gradient, 0.08, pair)
    assert (moved - pair).abs().max() == pytest.approx(0.08, rel=1e-4)
    far = stepped(pair, gradient, 50.0, pair)
    assert far.min() == pair.min()
    assert far.max() == pair.max()
    assert torch.equal(stepped(pair, torch.zeros_like(pair), 0.08, pair), pair)


def test_without_a_climb_the_map_lies_where_the_cam_does(net):
    pair, weight = pair_of(), weight_of(net)
    plain = cam_source(net, weight)(pair, KEYS)
    found = advcam_source(net, weight, AdvCAM(iterations=1))(pair, KEYS)
    assert found.shape == plain.shape == (2, 8, 11)
    assert torch.equal(found > 0, plain > 0)
    similarity = F.cosine_similarity(found.flatten(1), plain.flatten(1))
    assert (similarity > 0.95).all()


def test_each_class_climbs_by_itself_and_always_the_same(net):
    pair, weight = pair_of(), weight_of(net)
    source = advcam_source(net, weight, SHORT)
    both = source(pair, KEYS)
    assert torch.equal(both, source(pair, KEYS))
    for n in range(2):
        assert torch.equal(source(pair, KEYS[n : n + 1])[0], both[n])
    flat = advcam_source(net, weight, AdvCAM(iterations=1))(pair, KEYS)
    assert not torch.allclose(both, 4 * flat)
    assert torch.equal(pair, pair_of())


def test_it_climbs_in_inference_mode_and_leaves_the_network_as_it_was(net):
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    expected = advcam_source(net, net.classifier.weight, SHORT)(pair_of(), KEYS)
    with torch.inference_mode():
        found = advcam_source(net, net.classifier.weight * 1.0, SHORT)(pair_of() * 1.0, KEYS)
    assert torch.equal(found, expected)
    assert not found.requires_grad
    assert trained == {name for name, p in net.named_parameters() if p.requires_grad}
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize(
    ("scale", "compat", "iterations", "gain"),
    [
        (1.0, "none", 4, 1.0),
        (0.5, "none", 2, 2.0),
        (2.0, "none", 4, 1.0),
        (0.5, "release", 2, 2.0),
        (1.5, "release", 4, 2.0),
    ],
)
def test_small_views_climb_half_as_long_and_count_twice(net, scale, compat, iterations, gain):
    passes = []
    net.backbone.register_forward_hook(lambda *_: passes.append(1))
    weight, config = weight_of(net), replace(SHORT, compat=compat)
    found = advcam_source(net, weight, config, scale=scale)(pair_of(), KEYS)
    assert len(passes) == len(KEYS) * iterations
    plain = replace(config, iterations=iterations, iterations_small=iterations, gain_small=1.0)
    assert torch.allclose(found, gain * advcam_source(net, weight, plain)(pair_of(), KEYS))


def test_planes_fuse_each_scale_with_its_own_climb(net):
    pixels = np.random.default_rng(0).integers(0, 256, (42, 50, 3), dtype=np.uint8)
    views, weight = net.views((1.0, 0.5)), weight_of(net)
    found = advcam_planes(net, weight, SHORT, views)(pixels, KEYS)
    maps = []
    for scale in views.scales:
        view = normalise(rescale(pixels, scale, "cubic"), views.mean, views.std)
        source = advcam_source(net, weight, SHORT, scale=scale)
        maps.append(source(torch.stack([view, flip(view)]), KEYS))
    assert torch.equal(found, score_planes(maps, (42, 50), views.stride))
    assert found.shape == (2, 11, 13)
    assert ((found >= 0) & (found <= 1)).all()
    assert (found.amax((1, 2)) > 0.9).all()


def test_recam_s_weights_climb_as_well():
    torch.manual_seed(0)
    net = ReCAMNet(backbone("tiny"), 6).eval()
    names = ("w", "w_prime", "product")
    maps = [advcam_source(net, extraction_weight(net, n), SHORT)(pair_of(), KEYS) for n in names]
    for n, found in enumerate(maps):
        assert found.isfinite().all()
        assert (found.amax((1, 2)) > 0).all()
        assert not torch.allclose(found, maps[n - 1])


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: AdvCAM(iterations=0), "iterations"),
        (lambda: AdvCAM(iterations_small=0), "iterations_small"),
        (lambda: AdvCAM(step=-0.1), "step"),
        (lambda: AdvCAM(gain_small=float("nan")), "gain_small"),
        (lambda: AdvCAM(regularisation=-1.0), "regularisation"),
        (lambda: AdvCAM(high=1.1), "high"),
        (lambda: AdvCAM(compat="bug"), "compat"),
    ],
)
def test_settings_without_sense_are_refused(build, field):
    with pytest.raises(ValueError, match=f"^{field} is "):
        build()
