"""Golden units 14 and 14b: IRNet on a ResNet-50, its losses and their gradients."""

import numpy as np
import pytest
import torch
from torch import nn

from wsss.data.transforms import flip, strided_size
from wsss.nets.backbones import backbone
from wsss.refine.irnet import IRNet, edge_map, irn_losses

TERMS = {"bg_pos": "bg_pos_aff", "fg_pos": "fg_pos_aff", "pos": "pos_aff", "neg": "neg_aff",
         "dp_fg": "dp_fg", "dp_bg": "dp_bg", "loss": "total"}  # fmt: skip


class Named(nn.Module):
    """The parts of an IRNet under the names that the recordings have."""

    def __init__(self, net):
        super().__init__()
        for whole in (net.backbone.stem, net.backbone, net.edge, net.displacement):
            for name, part in whole.named_children():
                if name not in ("stem", "out"):
                    self.add_module(name, part)
        self.dp7 = nn.ModuleDict(
            {**dict(net.displacement.dp7.named_children()), "out": net.displacement.out}
        )


@pytest.fixture(scope="module")
def net():
    return IRNet(backbone("resnet50"))


@pytest.fixture(scope="module")
def named(net, fill, golden):
    named = Named(net)
    assert fill(named) == str(golden("unit14_irnet")["weights_sha256"])
    return named


def pair(x: np.ndarray) -> torch.Tensor:
    [image] = torch.from_numpy(x)
    return torch.stack([image, flip(image)])


def test_names_and_numbers_of_trained_weights(net, named, golden):
    unit = golden("unit14_irnet")
    ours = [n for n in named.state_dict() if not n.endswith("num_batches_tracked")]
    assert sorted(ours) == sorted(unit["weights_names"].tolist())
    counts = [sum(p.numel() for p in part.parameters()) for part in (net.edge, net.displacement)]
    assert counts == [125_409, 1_269_120]


@pytest.mark.parametrize("size", ["", "_odd"])
def test_edges_and_displacements_equal_the_release(golden, net, named, close, size):
    unit = golden("unit14_irnet")
    views = pair(unit[f"x{size}"])
    close(edge_map(net.eval(), views)[None], unit[f"edge{size}"])
    with torch.no_grad():
        logits, displacement = net(views)
    close(displacement[0], unit[f"displacement{size}"])
    if not size:
        close(logits, unit["edge_logits_pair"])
        close(displacement, unit["displacement_pair"])


def test_edges_of_a_padded_image_equal_the_release(golden, net, named, close):
    unit = golden("unit14b_irnet_padded")
    views, side = pair(unit["x"]), int(unit["pad_to"])
    padded = edge_map(net.eval(), views, side)
    close(padded[None], unit["edge"])
    assert (padded - edge_map(net, views)).abs().max() > 0.1
    canvas = torch.zeros(1, 3, side, side)
    height, width = views.shape[-2:]
    canvas[..., :height, :width] = views[:1]
    rows, columns = strided_size(height, width, 4)
    with torch.no_grad():
        close(net(canvas)[1][0, :, :rows, :columns], unit["displacement"])


@pytest.fixture(scope="module")
def step(golden, net, named):
    """Outputs and loss terms of a training step."""
    unit = golden("unit14_irnet")
    logits, displacement = net.train()(torch.from_numpy(unit["x_loss"]))
    label = torch.from_numpy(unit["label32"])[None]
    return logits, displacement, irn_losses(logits, displacement, label, 10)


def test_losses_equal_the_release(golden, step, close):
    unit, (logits, displacement, terms) = golden("unit14_irnet"), step
    close(logits, unit["loss_edge_logits"])
    close(displacement, unit["loss_dp_train_mode"])
    recorded = dict(zip(unit["loss_names"].tolist(), unit["losses"].tolist(), strict=True))
    for ours, theirs in TERMS.items():
        assert terms[ours].item() == pytest.approx(recorded[theirs], rel=1e-5)


def test_gradients_equal_the_release(golden, net, named, step):
    unit, weights = golden("unit14_irnet"), dict(named.named_parameters())
    assert not any(p.requires_grad for p in net.backbone.parameters())
    names = unit["grad_names"].tolist()
    found = torch.autograd.grad(step[2]["loss"], [weights[n] for n in names])
    norms = [gradient.norm().item() for gradient in found]
    assert norms == pytest.approx(unit["grad_norms"].tolist(), rel=1e-3)
    gradients = dict(zip(names, found, strict=True))
    for name in ("edge6.weight", "dp7.out.weight"):
        recorded = unit[f"grad_{name.replace('.', '_')}"]
        error = np.abs(gradients[name].numpy() - recorded).max()
        assert error <= 1e-3 * np.abs(recorded).max()
