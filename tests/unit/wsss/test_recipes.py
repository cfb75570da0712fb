"""Which settings suit which data."""

from wsss.config import CAMTraining, ReCAMTraining
from wsss.recipes import LITE0, SCENES, recipe


def test_published_schedule_on_voc() -> None:
    found = recipe("voc2012:/data", None, 10_582)
    assert found.cam == CAMTraining(steps=3305)
    assert found.recam == ReCAMTraining(steps=2644)


def test_scenes_get_the_tiny_network() -> None:
    assert recipe("scenes", None, 400) is SCENES
    assert recipe("scenes:seed=3", "tiny", 400) is SCENES
    assert recipe("scenes", "resnet50", 400).cam.backbone == "resnet50"


def test_few_photographs_are_counted_in_steps() -> None:
    assert recipe("voc2012:/data", "efficientnet_lite0", 386) is LITE0
    many = recipe("voc2012:/data", "efficientnet_lite0", 10_582)
    assert many.cam.steps == 3305


def test_random_weights_only_where_there_are_no_others() -> None:
    assert recipe("voc2012:/data", "tiny", 386).cam.weights == "random"
    assert recipe("voc2012:/data", "resnet101", 386).cam.weights == "imagenet"


def test_recam_s_release_changes_its_schedule_on_coco() -> None:
    found = recipe("coco2014:/data", None, 82_783)
    assert (found.cam.steps, found.recam.steps, found.recam.batch) == (25_865, 55_188, 6)
    assert (found.recam.loss_weight, found.weight) == (0.1, "w")
