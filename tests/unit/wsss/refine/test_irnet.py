import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from wsss.cam.scores import extract
from wsss.config import content_of
from wsss.config.refine import IRNTraining, Walk
from wsss.data import open_samples
from wsss.data.transforms import flip, normalise, strided_size
from wsss.nets.backbones import backbone
from wsss.nets.weights import save_weights
from wsss.refine.affinity import affinity_labels, paths
from wsss.refine.irnet import (
    IRNet,
    edge_map,
    edge_source,
    irn_examples,
    irn_losses,
    irn_view,
    load_irnet,
    save_irnet,
    train_irnet,
)
from wsss.refine.walk import walked
from wsss.training import Silent

CONFIG = IRNTraining(
    steps=4, epochs=2, batch=3, crop=48, radius=4, backbone="tiny", weights="random", seed=2
)


class Kept(Silent):
    """Keeps checkpoints in a folder, and the reports."""

    def __init__(self, folder):
        super().__init__()
        self.folder, self.reports = folder, []

    def report(self, step, metrics):
        self.reports.append(metrics)

    def save(self, step, write):
        (self.folder / f"step{step}").mkdir(parents=True)
        write(self.folder / f"step{step}")

    def restore(self):
        folders = sorted(self.folder.glob("step*"))
        return (int(folders[-1].name[4:]), folders[-1]) if folders else None


@pytest.fixture(scope="module")
def scenes():
    return open_samples("scenes:images=9", "train")


@pytest.fixture
def net():
    torch.manual_seed(0)
    return IRNet(backbone("tiny")).eval()


@pytest.mark.parametrize("name", ["tiny", "efficientnet_lite0", "resnet50"])
@pytest.mark.parametrize("size", [(64, 64), (61, 75)])
def test_any_backbone_gives_edges_on_the_stride_4_grid(name, size):
    torch.manual_seed(1)
    net = IRNet(backbone(name)).eval()
    with torch.no_grad():
        logits, displacement = net(torch.randn(2, 3, *size))
    grid = (-(-size[0] // 4), -(-size[1] // 4))
    assert logits.shape == (2, 1, *grid)
    assert displacement.shape == (2, 2, *grid)
    assert logits.std() > 0


def test_finer_levels_are_averaged_and_coarser_ones_enlarged():
    strides = {name: IRNet(backbone(name)).edge.strides for name in ("tiny", "resnet50")}
    assert strides == {"tiny": (1, 2, 4, 4, 4), "resnet50": (4, 4, 8, 16, 16)}


def test_the_image_shifted_by_a_cell_shifts_what_is_found(net):
    # The levels of all strides lie on the grid in one place: none slips against another.
    image = torch.zeros(1, 3, 96, 96)
    image[..., 40:56, 40:56] = 3
    with torch.no_grad():
        here = net(image)[0][0, 0]
        there = net(image.roll((8, 4), (2, 3)))[0][0, 0]
    torch.testing.assert_close(there[6:18, 6:18], here[4:16, 5:17], atol=0.02, rtol=0)
    assert here[4:16, 5:17].std() > 0.05


def pairs(generator, label):
    logits = torch.randn(len(label), 1, *label.shape[1:], generator=generator)
    return logits, torch.randn(len(label), 2, *label.shape[1:], generator=generator)


def drawn_label(batch=2, height=6, width=9):
    generator = torch.Generator().manual_seed(4)
    ids = torch.randint(0, 4, (batch, height, width), generator=generator)
    return torch.tensor([0, 1, 20, 255])[ids].to(torch.uint8)


def test_losses_equal_a_loop_over_all_pairs():
    label = drawn_label()
    logits, displacement = pairs(torch.Generator().manual_seed(5), label)
    terms, edge = irn_losses(logits, displacement, label, 3), logits.sigmoid()[:, 0]
    sums = {name: [] for name in ("bg_pos", "fg_pos", "neg", "dp_fg", "dp_bg")}
    for b, y, x in np.ndindex(2, 4, 5):
        x += 2
        for path in paths(3):
            dy, dx = path.offset
            one, other = int(label[b, y, x]), int(label[b, y + dy, x + dx])
            if 255 in (one, other):
                continue
            a = 1 - max(edge[b, y + i, x + j] for i, j in path.cells)
            apart = displacement[b, :, y, x] - displacement[b, :, y + dy, x + dx]
            attract, repel = -torch.log(a + 1e-5), -torch.log(1 + 1e-5 - a)
            if one != other:
                sums["neg"].append(repel)
            elif one:
                sums["fg_pos"].append(attract)
                sums["dp_fg"].append((apart - torch.tensor(path.offset)).abs().mean())
            else:
                sums["bg_pos"].append(attract)
                sums["dp_bg"].append(apart.abs().mean())
    means = {name: float(torch.stack(values).mean()) for name, values in sums.items()}
    for name, value in means.items():
        assert terms[name].item() == pytest.approx(value, rel=1e-4)
    pos = (means["bg_pos"] + means["fg_pos"]) / 2
    assert terms["pos"].item() == pytest.approx(pos, rel=1e-4)
    whole = (pos + means["neg"]) / 2 + (means["dp_fg"] + means["dp_bg"]) / 2
    assert terms["loss"].item() == pytest.approx(whole, rel=1e-4)


def test_a_batch_without_any_pair_costs_nothing():
    label = torch.full((2, 6, 9), 255, dtype=torch.uint8)
    logits, displacement = pairs(torch.Generator().manual_seed(5), label)
    terms = irn_losses(logits.requires_grad_(), displacement, label, 3)
    assert all(term.item() == 0 for term in terms.values())
    assert not torch.autograd.grad(terms["loss"], logits)[0].any()


def test_the_gradient_reaches_both_branches_and_no_weight_of_the_backbone(net):
    before = {name: p.clone() for name, p in net.backbone.state_dict().items()}
    label = torch.from_numpy(np.kron([[0, 1], [2, 0]], np.ones((8, 8)))).to(torch.uint8)[None]
    logits, displacement = net.train()(torch.randn(1, 3, 64, 64))
    irn_losses(logits, displacement, label, 4)["loss"].backward()
    for part in (net.edge, net.displacement):
        assert all(p.grad is not None and p.grad.any() for p in part.parameters())
    assert all(p.grad is None and not p.requires_grad for p in net.backbone.parameters())
    assert not any(module.training for module in net.backbone.modules())
    assert all(torch.equal(p, before[n]) for n, p in net.backbone.state_dict().items())


def test_the_mean_displacement_is_subtracted_in_evaluation_alone(net):
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        plain = net(x)[1]
        net.displacement.mean_shift.running_mean.copy_(torch.tensor([1.0, -2.0]))
        torch.testing.assert_close(net(x)[1], plain - torch.tensor([1.0, -2.0])[:, None, None])
        torch.testing.assert_close(net.train()(x)[1], plain)


def labels_of(scenes):
    return lambda i: scenes.mask(i)


def same(one, other):
    return all(torch.equal(p, other.state_dict()[n]) for n, p in one.state_dict().items())


def test_training_goes_on_from_a_checkpoint_to_the_same_bits(scenes, tmp_path):
    monitor = Kept(tmp_path / "kept")
    whole = train_irnet(scenes, labels_of(scenes), CONFIG, monitor)
    names = {"loss", "pos", "bg_pos", "fg_pos", "neg", "dp_fg", "dp_bg"}
    assert [set(report) for report in monitor.reports] == [names, names]
    shutil.rmtree(tmp_path / "kept" / "step4")
    again = Kept(tmp_path / "kept")
    assert same(train_irnet(scenes, labels_of(scenes), CONFIG, again), whole)
    assert len(again.reports) == 1
    assert not whole.training
    other = train_irnet(scenes, labels_of(scenes), replace(CONFIG, seed=3), Silent())
    assert not same(other, whole)


def test_training_finds_the_outlines_of_what_is_labelled(scenes):
    config = replace(CONFIG, steps=40, epochs=1, momentum=0.9, lr_edge=0.05, lr_displacement=0.01)
    net = train_irnet(scenes, labels_of(scenes), config, Silent())
    edges = edge_source(net)
    gaps = []
    for i in range(len(scenes)):
        label = torch.from_numpy(scenes.mask(i)[::4, ::4].copy())
        negative = affinity_labels(label[None], 2).negative[0].any(0)
        edge = edges(scenes.image(i))[: label.shape[0] - 1, 1:-1].flatten()
        gaps.append(float(edge[negative].mean() - edge[~negative].mean()))
    assert np.mean(gaps) > 0.06  # 0.005 after one step


def test_weights_are_loaded_from_a_file_by_content(scenes, tmp_path):
    source = backbone("tiny")
    save_weights(source, tmp_path / "tiny.safetensors")
    file = tmp_path / "tiny.safetensors"
    config = replace(CONFIG, steps=1, epochs=1, weights=content_of(file), weights_file=str(file))
    net = train_irnet(scenes, labels_of(scenes), config, Silent())
    assert same(net.backbone, source)
    save_weights(backbone("tiny"), file)
    with pytest.raises(ValueError, match="is not the one with sha256:"):
        train_irnet(scenes, labels_of(scenes), config, Silent())


def test_what_cannot_be_trained_on_is_refused(scenes):
    with pytest.raises(ValueError, match="batch is 10 but the split has 9 images"):
        train_irnet(scenes, labels_of(scenes), replace(CONFIG, batch=10), Silent())
    with pytest.raises(ValueError, match=rf"label of {scenes.ids[0][:3]}.* is \(3, 4\), not \("):
        train_irnet(scenes, lambda i: np.zeros((3, 4), np.uint8), CONFIG, Silent())


def test_a_view_and_its_label_are_cut_at_one_place():
    rng = np.random.default_rng(0)
    label = np.kron(rng.integers(0, 3, (8, 10)), np.ones((8, 8))).astype(np.uint8)
    image = np.repeat(80 * label[..., None], 3, axis=2)
    config = replace(CONFIG, crop=80, scale=(0.6, 1.6))
    mean, std = (0.0,) * 3, (1.0,) * 3
    seen = set()
    for seed in range(20):
        draws = np.random.default_rng(seed)
        view, small = irn_view(image, label, config, mean, std, draws)
        assert view.shape == (3, 80, 80)
        assert small.shape == (20, 20)
        assert small.dtype == torch.uint8
        centres = view[0, 2::4, 2::4] * 255 / 80  # the pixel that stands for its cell
        inside = small != 255
        near = (centres - small)[inside].abs()
        assert (near < 0.2).float().mean() > 0.8  # cubic resizing blurs the seams
        assert not view[:, 2::4, 2::4][:, ~inside].any()
        seen.add(int(inside.sum()))
    assert len(seen) > 5


def test_the_same_step_gives_the_same_examples(scenes):
    made = irn_examples(scenes, labels_of(scenes), CONFIG, (0.5,) * 3, (0.5,) * 3)
    first, second = ([make() for make in made(3)] for _ in range(2))
    assert len(first) == CONFIG.batch
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not torch.equal(first[0][0], made(4)[0]()[0])


def test_edges_are_those_of_the_image_and_its_mirror_image(net, scenes):
    image = scenes.image(0)
    view = normalise(image, net.backbone.mean, net.backbone.std)
    pair = torch.stack([view, flip(view)])
    with torch.no_grad():
        logits = net(pair)[0][:, 0]
    expected = torch.sigmoid((logits[0] + logits[1].flip(-1)) / 2)
    torch.testing.assert_close(edge_map(net, pair), expected)
    torch.testing.assert_close(edge_source(net)(image), expected)
    mirrored = edge_source(net)(np.ascontiguousarray(image[:, ::-1]))
    torch.testing.assert_close(mirrored.flip(-1), expected)


@pytest.mark.parametrize(("size", "pad"), [((50, 70), 96), ((50, 70), 60), ((50, 70), 20)])
def test_padding_never_cuts_an_image(net, size, pad):
    x = torch.randn(3, *size)
    pair = torch.stack([x, flip(x)])
    canvas = torch.zeros(2, 3, max(size[0], pad), max(size[1], pad))
    canvas[..., : size[0], : size[1]] = pair
    with torch.no_grad():
        logits = net(canvas)[0][:, 0, :13, :18]
    expected = torch.sigmoid((logits[0] + logits[1].flip(-1)) / 2)
    found = edge_map(net, pair, pad)
    assert found.shape == (13, 18)
    torch.testing.assert_close(found, expected)


def test_half_precision_moves_the_edges_a_little(net):
    pair = torch.randn(2, 3, 64, 64)
    full, half = (edge_map(net, pair, precision=p) for p in ("float32", "bfloat16"))
    assert half.dtype == torch.float32
    assert 0 < (full - half).abs().max() < 0.05


def test_scores_walk_on_the_edges_of_a_network(net, scenes):
    def planes(image, keys):
        grid = strided_size(image.shape[0], image.shape[1], 4)
        return torch.rand(len(keys), *grid, generator=torch.Generator().manual_seed(0))

    maps = list(extract(scenes, range(3), planes))
    for before, after in zip(
        maps, walked(scenes, range(3), maps, edge_source(net), Walk(steps=16)), strict=True
    ):
        assert after.planes.shape == before.planes.shape
        assert after.planes.min() >= 0
        assert 0.5 < after.planes.max() <= 1
        assert after.planes.std() < before.planes.std()


def test_a_network_comes_back_from_its_file(net, tmp_path):
    net.displacement.mean_shift.running_mean.fill_(0.5)
    save_irnet(net, tmp_path / "irn.safetensors")
    back = load_irnet(tmp_path / "irn.safetensors")
    assert same(net, back)
    assert not back.training
    assert back.backbone.name == "tiny"
    with pytest.raises(ValueError, match=r"absent\.safetensors does not exist"):
        load_irnet(tmp_path / "absent.safetensors")
    save_weights(net.backbone, tmp_path / "other.safetensors", {"backbone": "tiny"})
    with pytest.raises(ValueError, match=r"other\.safetensors does not fit the network: lacks"):
        load_irnet(tmp_path / "other.safetensors")
