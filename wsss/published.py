"""Published numbers that our rows stand beside on the board, each with where it was read.

All are mIoU in percent, background included. Seeds and pseudo labels are scored on the training
images that have official masks (VOC: train, not train_aug), segmentation on val or on the test
server. A number whose meaning or origin nobody could tell is left out, and what a source does not
say is None. Users of the released code often get other numbers than the paper: those are variants.
"""

from __future__ import annotations

from dataclasses import dataclass

CAM_SEED = "CAM seed"
PSEUDO_LABEL = "pseudo label"
SEGMENTATION = "segmentation"

VOC_TRAIN = "voc2012 train (1464)"
VOC_VAL = "voc2012 val (1449)"
VOC_TEST = "voc2012 test (1456)"
COCO_TRAIN = "coco2014 train (82783)"
COCO_TRAIN_LABELLED = "coco2014 train (82081)"  # without the images that have no annotation
COCO_VAL = "coco2014 val"
COCO_VAL_IMAGES = (40_504, 40_137)
"""All, or those with annotations: papers do not say which they score."""

ABSTRACT = "paper's abstract page"
OTHERS = "third-party text"
RESNET50 = "ResNet-50, ImageNet"

RECAM = "https://arxiv.org/abs/2203.00962"
RECAM_CODE = "https://github.com/zhaozhengChen/ReCAM"
SFC = "https://arxiv.org/abs/2401.11719"
SFC_CODE = "https://github.com/Barrett-python/SFC"
INFERCAM = "https://arxiv.org/abs/2110.14309"
ADVCAM = "https://arxiv.org/abs/2103.08896"
ADVCAM_9 = "https://github.com/jbeomlee93/AdvCAM/issues/9"
IRN_CODE = "https://github.com/jiwoon-ahn/irn"
PSA_CODE = "https://github.com/jiwoon-ahn/psa"
SIPE_CODE = "https://github.com/chenqi1126/SIPE"


@dataclass(frozen=True, slots=True)
class Published:
    """One published number.

    Attributes:
        method: as our sweeps name it.
        task: CAM_SEED, PSEUDO_LABEL or SEGMENTATION.
        split: the official set, with its number of images where that is known.
        value: mIoU in percent.
        source: where the number was read, in words.
        url: of the source, or of the paper where the source has no address of its own.
        variant: empty for the number that stands for the method, else what sets this one apart.
        oracle: whether pixel masks chose a threshold or a checkpoint; None: not said.
        crf: whether a dense CRF came last; None: not said.
        weights: network and initial weights, as far as they are known.
    """

    method: str
    task: str
    split: str
    value: float
    source: str
    url: str
    variant: str = ""
    oracle: bool | None = None
    crf: bool | None = None
    weights: str = ""


_CAM_SEEDS = (
    Published("psa", CAM_SEED, VOC_TRAIN, 47.7, "psa's README", PSA_CODE,
              crf=False, weights="WideResNet-38, ImageNet"),
    Published("IRN", CAM_SEED, VOC_TRAIN, 48.3, "paper, via issue SIPE#9",
              f"{SIPE_CODE}/issues/9", crf=False, weights=RESNET50),
    Published("IRN", CAM_SEED, VOC_TRAIN, 48.1, "user, issue irn#4",
              f"{IRN_CODE}/issues/4", "lowest of users", crf=False, weights=RESNET50),
    Published("IRN", CAM_SEED, VOC_TRAIN, 48.6, "user, issue SIPE#9",
              f"{SIPE_CODE}/issues/9", "highest of users", crf=False, weights=RESNET50),
    Published("AdvCAM", CAM_SEED, VOC_TRAIN, 55.6,
              "paper, via issue AdvCAM#9", ADVCAM_9,
              oracle=True, crf=False, weights=RESNET50),
    Published("ReCAM", CAM_SEED, VOC_TRAIN, 54.8, f"{ABSTRACT}; oracle: issue ReCAM#3", RECAM,
              oracle=True, crf=False, weights=RESNET50),
    Published("SIPE", CAM_SEED, VOC_TRAIN, 58.65, "SIPE's README", SIPE_CODE,
              crf=False, weights=RESNET50),
    Published("SIPE", CAM_SEED, VOC_TRAIN, 58.88, "SIPE's README", SIPE_CODE,
              "released code", crf=False, weights=RESNET50),
    Published("SIPE", CAM_SEED, VOC_TRAIN, 62.05, "user, issue SIPE#8",
              f"{SIPE_CODE}/issues/8", "a user", crf=True, weights=RESNET50),
    Published("SIPE", CAM_SEED, COCO_TRAIN_LABELLED, 34.41, "SIPE's README", SIPE_CODE,
              crf=False),
    Published("SIPE", CAM_SEED, COCO_TRAIN_LABELLED, 35.05, "SIPE's README", SIPE_CODE,
              "released code", crf=False),
    Published("SFC", CAM_SEED, VOC_TRAIN, 64.7, f"{ABSTRACT}; oracle: released code", SFC,
              oracle=True, crf=False, weights=RESNET50),
    Published("SFC", CAM_SEED, VOC_TRAIN, 63.13, "log in the released code", SFC_CODE,
              "released log", oracle=True, crf=False, weights=RESNET50),
    Published("SFC", CAM_SEED, VOC_TRAIN, 69.4, OTHERS, SFC, crf=True, weights=RESNET50),
)  # fmt: skip

_PSEUDO_LABELS = (
    Published("psa", PSEUDO_LABEL, VOC_TRAIN, 61.0, "psa's README (AffinityNet)", PSA_CODE,
              weights="WideResNet-38, ImageNet"),
    Published("IRN", PSEUDO_LABEL, VOC_TRAIN, 66.5, "paper, via issue irn#26",
              f"{IRN_CODE}/issues/26"),
    Published("IRN", PSEUDO_LABEL, VOC_TRAIN, 65.9, "user, issue irn#26",
              f"{IRN_CODE}/issues/26", "lower of two users"),
    Published("IRN", PSEUDO_LABEL, VOC_TRAIN, 66.0, "user, issue irn#26",
              f"{IRN_CODE}/issues/26", "higher of two users"),
    Published("AdvCAM", PSEUDO_LABEL, VOC_TRAIN, 69.9, "paper, via issue AdvCAM#9", ADVCAM_9),
    Published("AdvCAM", PSEUDO_LABEL, VOC_TRAIN, 69.2, "user, issue AdvCAM#9", ADVCAM_9,
              "a user"),
    Published("ReCAM", PSEUDO_LABEL, VOC_TRAIN, 70.5, OTHERS, RECAM),
    Published("ReCAM", PSEUDO_LABEL, VOC_TRAIN, 69.9, "user, issue ReCAM#16",
              f"{RECAM_CODE}/issues/16", "lower of two users"),
    Published("ReCAM", PSEUDO_LABEL, VOC_TRAIN, 70.8, "user, issue ReCAM#23",
              f"{RECAM_CODE}/issues/23", "higher of two users"),
    Published("ReCAM", PSEUDO_LABEL, COCO_TRAIN, 46.3, "author, issue ReCAM#6",
              f"{RECAM_CODE}/issues/6"),
    Published("SFC", PSEUDO_LABEL, VOC_TRAIN, 73.7, OTHERS, SFC),
)  # fmt: skip

_SEGMENTATIONS = (
    Published("AdvCAM", SEGMENTATION, VOC_VAL, 68.1, "paper, via issue AdvCAM#9", ADVCAM_9,
              weights="DeepLabV2, ImageNet"),
    Published("AdvCAM", SEGMENTATION, VOC_VAL, 62.9, "user, issue AdvCAM#9", ADVCAM_9,
              "a user, default recipe", crf=False, weights="DeepLabV2"),
    Published("AdvCAM", SEGMENTATION, VOC_VAL, 64.9, "user, issue AdvCAM#9", ADVCAM_9,
              "a user, default recipe", crf=True, weights="DeepLabV2"),
    Published("AdvCAM", SEGMENTATION, VOC_TEST, 68.0, OTHERS, ADVCAM),
    Published("ReCAM", SEGMENTATION, VOC_VAL, 68.5, f"{ABSTRACT}; CRF: issue ReCAM#16", RECAM,
              crf=True, weights="DeepLabV2 ResNet-101, ImageNet"),
    Published("ReCAM", SEGMENTATION, VOC_TEST, 68.4, ABSTRACT, RECAM),
    Published("ReCAM", SEGMENTATION, COCO_VAL, 45.0, ABSTRACT, RECAM),
    Published("ReCAM", SEGMENTATION, VOC_VAL, 71.8, ABSTRACT, RECAM, "best variant"),
    Published("ReCAM", SEGMENTATION, VOC_TEST, 72.2, ABSTRACT, RECAM, "best variant"),
    Published("SIPE", SEGMENTATION, VOC_VAL, 68.8, "SIPE's README", SIPE_CODE,
              "ResNet-101", weights="ResNet-101"),
    Published("SIPE", SEGMENTATION, VOC_VAL, 68.2, "SIPE's README", SIPE_CODE,
              "WideResNet-38", weights="WideResNet-38"),
    Published("SIPE", SEGMENTATION, VOC_TEST, 69.7, "SIPE's README", SIPE_CODE,
              "ResNet-101", weights="ResNet-101"),
    Published("SIPE", SEGMENTATION, VOC_TEST, 69.5, "SIPE's README", SIPE_CODE,
              "WideResNet-38", weights="WideResNet-38"),
    Published("SIPE", SEGMENTATION, COCO_VAL, 40.6, "SIPE's README", SIPE_CODE,
              "ResNet-101", weights="ResNet-101"),
    Published("SIPE", SEGMENTATION, COCO_VAL, 43.6, "SIPE's README", SIPE_CODE,
              "WideResNet-38", weights="WideResNet-38"),
    Published("SFC", SEGMENTATION, VOC_VAL, 71.2, ABSTRACT, SFC),
    Published("SFC", SEGMENTATION, VOC_TEST, 72.5, ABSTRACT, SFC),
    Published("SFC", SEGMENTATION, COCO_VAL, 46.8, f"{ABSTRACT}; network: third-party text", SFC,
              weights="ResNet-101"),
    Published("InferCam", SEGMENTATION, VOC_VAL, 70.8, f"{OTHERS} (paperswithcode)", INFERCAM,
              weights="DeepLabV2 ResNet-101"),
    Published("InferCam", SEGMENTATION, VOC_TEST, 71.8, OTHERS, INFERCAM),
)  # fmt: skip

PUBLISHED: tuple[Published, ...] = (*_CAM_SEEDS, *_PSEUDO_LABELS, *_SEGMENTATIONS)
"""Every published number, by task."""
