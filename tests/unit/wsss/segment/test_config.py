import pytest

from wsss.config.refine import DEEPLAB_CRF
from wsss.config.segment import (
    ADVCAM_SEGMENTATION,
    DEEPLABV2_COCO,
    DEEPLABV3PLUS,
    MULTI_SCALE,
    UPERNET_SWIN,
    AAMRTargets,
    Segmentation,
    SegmentationTraining,
)

WRONG = [
    (SegmentationTraining, {"steps": 0}, "steps is 0: give 1 or more"),
    (SegmentationTraining, {"accumulation": 0}, "accumulation is 0: give 1 or more"),
    (SegmentationTraining, {"stairs": 0}, "stairs is 0: give 1 or more"),
    (SegmentationTraining, {"warm_up": -1}, "warm_up is -1: give 0 or more"),
    (SegmentationTraining, {"lr": -1e-4}, "lr is -0.0001: give 0 or more"),
    (SegmentationTraining, {"aamr_weight": -1}, "aamr_weight is -1: give 0 or more"),
    (SegmentationTraining, {"scales": ()}, r"scales is \(\): give 1 or more"),
    (SegmentationTraining, {"scales": (1.0, 0.0)}, "scales is 0.0: give a positive number"),
    (SegmentationTraining, {"pyramid": (-0.5,)}, "pyramid is -0.5: give a positive number"),
    (SegmentationTraining, {"architecture": "fcn"}, "architecture is 'fcn': choose from deeplabv2"),
    (SegmentationTraining, {"optimiser": "adam"}, "optimiser is 'adam': choose from sgd, adamw"),
    (SegmentationTraining, {"loss": "dice"}, "loss is 'dice': choose from ce, balanced"),
    (SegmentationTraining, {"weights": "x.pth"}, "weights is 'x.pth': give imagenet, random, or"),
    (
        SegmentationTraining,
        {"architecture": "upernet"},
        r"pyramid is \(0.5, 0.75\): give \(\) for upernet",
    ),
    (
        SegmentationTraining,
        {"architecture": "deeplabv3plus", "pyramid": (), "batch": 1},
        "batch is 1: give 2 or more, deeplabv3plus trains batch norms",
    ),
    (Segmentation, {"scales": ()}, r"scales is \(\): give 1 or more"),
    (Segmentation, {"fusion": "max"}, "fusion is 'max': choose from max_logits, mean_logits, mean"),
    (Segmentation, {"crf_colours": "bgr"}, "crf_colours is 'bgr': choose from image, wrapped"),
    (Segmentation, {"precision": "half"}, "precision is 'half': choose from float32, bfloat16"),
    (AAMRTargets, {"saliency": 2}, r"saliency is 2: give a number in \[0, 1\]"),
    (AAMRTargets, {"share": -0.1}, r"share is -0.1: give a number in \[0, 1\]"),
]


@pytest.mark.parametrize(("kind", "fields", "message"), WRONG)
def test_what_cannot_be_is_refused(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        kind(**fields)


def test_the_defaults_are_deeplabv2_s_on_voc():
    c = SegmentationTraining()
    assert (c.steps, c.batch, c.accumulation, c.crop) == (20_000, 5, 2, 321)
    assert (c.lr, c.classifier_rate, c.bias_rate, c.stairs) == (2.5e-4, 10, 20, 10)
    assert (c.momentum, c.weight_decay, c.power) == (0.9, 5e-4, 0.9)
    assert (c.scales, c.pyramid) == ((0.5, 0.75, 1, 1.25, 1.5), (0.5, 0.75))
    assert (c.architecture, c.backbone, c.loss, c.aamr_weight) == (
        "deeplabv2",
        "resnet101",
        "ce",
        0,
    )
    test = Segmentation()
    assert (test.scales, test.flip, test.fusion, test.crf) == (
        (1,),
        False,
        "max_logits",
        DEEPLAB_CRF,
    )


def test_other_published_settings():
    coco = DEEPLABV2_COCO
    assert (coco.steps, coco.batch, coco.accumulation, coco.lr) == (100_000, 10, 2, 2e-4)
    assert (ADVCAM_SEGMENTATION.steps, ADVCAM_SEGMENTATION.loss) == (30_000, "balanced")
    v3 = DEEPLABV3PLUS
    assert (v3.lr, v3.weight_decay, v3.batch, v3.steps, v3.crop) == (0.007, 4e-5, 16, 30_000, 512)
    swin = UPERNET_SWIN
    assert (swin.optimiser, swin.lr, swin.weight_decay, swin.warm_up) == ("adamw", 6e-5, 0.01, 1500)
    assert (MULTI_SCALE.fusion, len(MULTI_SCALE.scales), MULTI_SCALE.crf) == (
        "mean_logits",
        6,
        None,
    )
