"""The stages as a pipeline on drawn scenes, in this process, and what must not be imported."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from stageflow.artifact import Artifacts
from stageflow.executor import Event, Kind, LocalExecutor, RunError, run
from stageflow.stage import Node, Source
from stageflow.store import FolderStore
from wsss import stages
from wsss.config import (
    CAMMaps,
    CAMTraining,
    ReCAMMaps,
    ReCAMTraining,
    SeedPictures,
    SeedQuality,
    SeedScore,
)

SCENES = "scenes:images=12"
VIEW = {"crop": 64, "long_side": (64, 80), "batch": 4}


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory) -> LocalExecutor:
    folder = tmp_path_factory.mktemp("stages")
    return LocalExecutor(Artifacts(FolderStore(folder / "store"), folder / "cache"), device="cpu")


def plain(**training: object) -> tuple[Node, Node]:
    """A classifier and its maps."""
    config = CAMTraining(backbone="tiny", weights="random", steps=2, epochs=1, **VIEW, **training)
    net = stages.train_cam(stages.images(SCENES, "train"), config)
    return net, stages.cam_maps(stages.images(SCENES, "train"), net, CAMMaps(scales=(1.0,)))


def test_from_images_to_seeds_and_pictures(executor: LocalExecutor) -> None:
    truth = stages.masks(SCENES, "train")
    net, maps = plain()
    config = ReCAMTraining(steps=2, epochs=1, probe=2, **VIEW)
    ours = stages.train_recam(stages.images(SCENES, "train"), net, config)
    our_maps = stages.recam_maps(
        stages.images(SCENES, "train"), ours, ReCAMMaps(scales=(1.0,), weight="w")
    )
    quality, ours_quality = (
        stages.seed_quality(found, truth, SeedQuality(bins=20)) for found in (maps, our_maps)
    )
    pictures = stages.seed_pictures(
        truth, maps, quality, our_maps, ours_quality, SeedPictures(images=2)
    )
    best = stages.seed_score(ours_quality, SeedScore())
    fixed = stages.seed_score(ours_quality, SeedScore(threshold=0.5))
    made = run(best, fixed, pictures, executor=executor)
    assert made[0].metrics["miou"] >= made[1].metrics["miou"]
    assert made[1].metrics["threshold"] == 0.5
    assert "iou/background" in made[0].metrics
    assert {file.path for file in made[2].files} == {
        *("threshold_curve.png", "overlays.png", "class_iou.png"),
        *("confused_cam.png", "confused_recam.png"),
    }
    trained = executor.artifacts.manifest(ours)
    assert trained is not None
    assert "probe_miou" in trained.reports[-1].metrics


def test_watching_a_training_does_not_change_its_key() -> None:
    assert plain()[0].key == plain(probe=4, workers=1)[0].key
    assert plain()[0].key != plain(seed=1)[0].key


def test_masks_are_no_part_of_what_is_learned() -> None:
    assert "masks" not in stages.images(SCENES, "train").identity
    assert stages.masks(SCENES, "train").identity["masks"] == "exact"
    assert stages.images(SCENES, "train").key != stages.images("scenes:images=13", "train").key


def test_a_data_set_that_differs_from_the_plan_is_refused(executor: LocalExecutor) -> None:
    planned = stages.images(SCENES, "train")
    other = Source("images", "train@scenes:images=13", planned.identity)
    config = CAMTraining(backbone="tiny", weights="random", steps=3, epochs=1, **VIEW)
    with pytest.raises(RunError, match="is not what was planned with"):
        run(stages.train_cam(other, config), executor=executor)


def test_an_unknown_class_is_named(executor: LocalExecutor) -> None:
    quality = stages.seed_quality(plain()[1], stages.masks(SCENES, "train"), SeedQuality(bins=20))
    with pytest.raises(RunError, match="class 'bota' is unknown: did you mean boat"):
        run(stages.seed_score(quality, SeedScore(classes=("bota",))), executor=executor)


def test_shards_make_the_same_maps(executor: LocalExecutor, tmp_path: Path) -> None:
    """The union of two shards' files holds what one execution makes."""
    from stageflow.context import Shard
    from stageflow.execution import assemble, execute
    from wsss.cam.scores import ScoreMaps

    _, maps = plain()
    [whole] = run(maps, executor=executor)

    class Quiet:
        def progress(self, done: int, total: int, note: str) -> None: ...

        def report(self, step: int, metrics: object) -> bool:
            return True

    parts = [
        execute(maps, artifacts=executor.artifacts, hooks=Quiet(), device="cpu", shard=Shard(i, 2))
        for i in range(2)
    ]
    both = ScoreMaps(executor.artifacts.fetch(assemble(maps, parts)))
    one = ScoreMaps(executor.artifacts.fetch(whole))
    assert both.ids == one.ids
    assert all((a.planes == b.planes).all() for a, b in zip(both, one, strict=True))


def test_declaring_a_pipeline_imports_no_torch() -> None:
    code = "import sys; from sweeps import recam_threshold as s; "
    code += "s.pipeline(s.Params(), s.Options()); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_progress_is_told(executor: LocalExecutor) -> None:
    told: Counter[Kind] = Counter()

    def count(event: Event) -> None:
        told[event.kind] += 1

    run(plain(seed=7)[1], executor=executor, observe=count)
    assert told[Kind.PROGRESS] > 12
