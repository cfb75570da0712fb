import numpy as np
import pytest
import torch

from wsss.config import Training
from wsss.training import poly, set_rates


def test_rates_and_parameters_follow_the_released_optimiser(golden):
    unit = golden("unit06_poly_sgd")
    a, target = torch.from_numpy(unit["a"]), torch.from_numpy(unit["target"])
    p = torch.from_numpy(unit["p_trace"][0]).requires_grad_()
    q = torch.from_numpy(unit["q_trace"][0]).requires_grad_()
    decay = unit["weight_decay"].tolist()
    groups = [
        {"params": [p], "first_lr": float(unit["base_lr"][0]), "weight_decay": decay[0]},
        {"params": [q], "first_lr": float(unit["base_lr"][1]), "weight_decay": decay[1]},
    ]
    optimiser = torch.optim.SGD(groups, momentum=Training().momentum)
    for step, rates in enumerate(unit["lr_trace"]):
        set_rates(optimiser, step, int(unit["max_step"]), Training().power)
        assert [g["lr"] for g in optimiser.param_groups] == pytest.approx(rates, abs=1e-12)
        optimiser.zero_grad()
        loss = 0.5 * (a * (p - target) ** 2).sum() + 0.1 * (q**2).sum() + 0.05 * q.sum()
        loss.backward()
        optimiser.step()
        assert np.abs(p.detach().numpy() - unit["p_trace"][step + 1]).max() <= 1e-12
        assert np.abs(q.detach().numpy() - unit["q_trace"][step + 1]).max() <= 1e-12


def test_the_schedule_starts_with_the_published_rates():
    rates = [0.1 * poly(step, 10) for step in range(3)]
    assert rates == pytest.approx([0.1, 0.09095, 0.08181], abs=1e-5)
