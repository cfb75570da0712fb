"""Film strips: one line an image, one picture a stage."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from wsss.cam.scores import ScoreMap
from wsss.data import open_samples
from wsss.figures import Step, Strip, film_strips
from wsss.refine.pictures import cut_at, label_pictures

SCENES = open_samples("scenes:images=6", "train")


def truth(i: int) -> torch.Tensor:
    return torch.from_numpy(SCENES.mask(i))


def test_every_stage_is_drawn_for_some_images() -> None:
    asked: list[int] = []

    def background(i: int) -> torch.Tensor:
        asked.append(i)
        return torch.zeros_like(truth(i))

    [(name, png)] = label_pictures((("nothing", background), ("truth", truth)), SCENES, 3)
    picture = Image.open(io.BytesIO(png))
    assert name == "strips.png"
    assert picture.width <= 1200
    assert picture.height > picture.width / 4
    assert len(set(asked)) == 3


def test_scores_are_cut_at_full_resolution() -> None:
    planes = torch.zeros(1, 2, 3)
    planes[0, :, 2] = 0.9
    label = cut_at([ScoreMap("a", torch.tensor([4]), planes, (8, 11))], 0.5)(0)
    assert label.shape == (8, 11)
    assert label[0].tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 5, 5, 5]


def strip(*shapes: tuple[int, int]) -> Strip:
    steps = tuple(Step(name="s", label=np.zeros(s, np.uint8), iou=0.5) for s in shapes)
    image = np.zeros((8, 9, 3), np.uint8)
    return Strip(id="a", image=image, truth=np.zeros((8, 9), np.uint8), steps=steps)


def test_labels_of_another_size_and_strips_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"image a is \(8, 9\) but s \(8, 8\)"):
        strip((8, 8))
    with pytest.raises(ValueError, match=r"strips have \[1, 2\] steps"):
        film_strips([strip((8, 9)), strip((8, 9), (8, 9))])
