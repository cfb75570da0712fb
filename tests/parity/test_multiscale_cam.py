import pytest
import torch

from wsss.cam.classifier import cam_source
from wsss.cam.scores import fused_high_res, fused_stride4, multiscale_maps
from wsss.data.transforms import normalise, rescale

SIZE = (73, 90)


@pytest.fixture
def maps(golden, cam_net, w_prime):
    unit, net = golden("unit05_multiscale_cam"), cam_net
    weights = {"baseline": net.classifier.weight, "recam": net.classifier.weight * w_prime}

    def extracted(name):
        views = net.views(tuple(unit["scales"].tolist()))
        return multiscale_maps(
            unit["image"], cam_source(net, weights[name]), torch.arange(20), views
        )

    return extracted


def test_the_maps_of_each_scale_equal_the_release(golden, maps, close):
    unit = golden("unit05_multiscale_cam")
    for scale, found in zip(("1", "0_5", "1_5", "2"), maps("recam"), strict=True):
        close(found, unit[f"per_scale_{scale}"])


@pytest.mark.parametrize("weight", ["recam", "baseline"])
def test_fused_maps_equal_the_release_on_both_grids(golden, maps, close, weight):
    unit = golden("unit05_multiscale_cam")
    present = [m[torch.from_numpy(unit["keys"])] for m in maps(weight)]
    close(fused_stride4(present, SIZE), unit[f"{weight}_cam"])
    close(fused_high_res(present, SIZE), unit[f"{weight}_high_res"])


@pytest.mark.parametrize("factor", [0.5, 1.5])
def test_the_input_of_a_scale_equals_the_release(golden, cam_net, close, factor):
    unit = golden("unit05_multiscale_cam")
    view = rescale(unit["image"], factor, "cubic")
    ours = normalise(view, cam_net.backbone.mean, cam_net.backbone.std)
    close(ours, unit[f"input_scale_{str(factor).replace('.', '_')}"])
