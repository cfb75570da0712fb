import pytest

from wsss.config.refine import CRF, DEEPLAB_CRF, PSA_CRF, IRLabels, IRNTraining, PseudoLabels, Walk

WRONG = [
    (CRF, {"iterations": 0}, "iterations is 0: give 1 or more"),
    (CRF, {"gaussian_sxy": 0}, "gaussian_sxy is 0: give a positive number"),
    (CRF, {"bilateral_sxy": -1}, "bilateral_sxy is -1: give a positive number"),
    (CRF, {"bilateral_srgb": float("nan")}, "bilateral_srgb is nan: give a positive number"),
    (CRF, {"gaussian_compat": -3}, "gaussian_compat is -3: give 0 or more"),
    (CRF, {"gt_prob": 1}, "gt_prob is 1: give a number between 0 and 1"),
    (IRLabels, {"threshold_fg": 1.5}, r"threshold_fg is 1.5: give a number in \[0, 1\]"),
    (IRLabels, {"threshold_bg": 0.4}, "threshold_bg is 0.4: give at most threshold_fg, 0.35"),
    (IRLabels, {"ignore": "drop"}, "ignore is 'drop': choose from keep, background"),
    (IRNTraining, {"lr_edge": -1}, "lr_edge is -1: give 0 or more"),
    (IRNTraining, {"epochs": 0}, "epochs is 0: give 1 or more"),
    (IRNTraining, {"radius": 1}, "radius is 1: give 2 or more"),
    (IRNTraining, {"scale": (1.5, 0.5)}, "give the lower end first, above 0"),
    (IRNTraining, {"scale": (0.0, 0.5)}, "give the lower end first, above 0"),
    (IRNTraining, {"crop": 510}, "crop is 510: give a multiple of 4, at least 76 for radius 10"),
    (IRNTraining, {"crop": 72}, "crop is 72: give a multiple of 4, at least 76 for radius 10"),
    (IRNTraining, {"weights": "net.pth"}, "weights is 'net.pth': give imagenet, random, or"),
    (Walk, {"beta": 0}, "beta is 0: give a positive number"),
    (Walk, {"steps": 0}, "steps is 0: give 1 or more"),
    (Walk, {"radius": 1}, "radius is 1: give 2 or more"),
    (Walk, {"pad": 0}, "pad is 0: give 1 or more"),
    (Walk, {"bits": 12}, "bits is 12: choose from 8, 16"),
    (PseudoLabels, {"threshold": -0.1}, r"threshold is -0.1: give a number in \[0, 1\]"),
]


@pytest.mark.parametrize(("kind", "fields", "message"), WRONG)
def test_what_cannot_be_is_refused(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        kind(**fields)


def test_the_defaults_are_published():
    assert (IRLabels().threshold_fg, IRLabels().threshold_bg) == (0.35, 0.10)
    training = IRNTraining()
    assert (training.steps, training.batch, training.crop) == (3 * (10582 // 32), 32, 512)
    assert (training.lr_edge, training.lr_displacement, training.radius) == (0.1, 1.0, 10)
    assert (Walk().beta, Walk().steps, Walk().radius, Walk().pad) == (10, 2**8, 5, None)
    assert PseudoLabels().threshold == 0.28
    assert CRF() == IRLabels().crf


def test_each_published_crf_differs_from_the_default_in_its_kernels_alone():
    def kernels(crf):
        return [
            *(crf.gaussian_sxy, crf.gaussian_compat),
            *(crf.bilateral_sxy, crf.bilateral_srgb, crf.bilateral_compat),
        ]

    assert kernels(CRF()) == [3, 3, 50, 5, 10]
    assert kernels(PSA_CRF) == [3, 3, 80, 13, 10]
    assert kernels(DEEPLAB_CRF) == [1, 3, 67, 3, 4]
    assert CRF().iterations == PSA_CRF.iterations == DEEPLAB_CRF.iterations == 10
