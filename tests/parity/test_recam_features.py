import torch

from wsss.cam.classifier import cam, logits
from wsss.cam.recam import class_features
from wsss.cam.scores import max_normalised


def test_logits_maps_and_class_features_equal_the_release(golden, cam_net, close):
    unit = golden("unit02_recam_features")
    with torch.no_grad():
        features = cam_net(torch.from_numpy(unit["x"]))
        weight = cam_net.classifier.weight
        maps = max_normalised(cam(features, weight))
        close(logits(features, weight), unit["logits"])
        close(maps, unit["cams"])
        close(class_features(features, maps), unit["class_features"])


def test_the_network_is_filled_like_the_recorded_one(golden, cam_net, fill):
    assert fill(cam_net) == str(golden("unit02_recam_features")["weights_sha256"])
