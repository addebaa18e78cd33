"""A step in parts is the step as a whole, and one whose float16 gradients overflow has not happened."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from opentrans_cli.errors import TrainingError
from opentrans_cli.training.settings import TrainSettings
from opentrans_cli.training.state_file import load_meta
from opentrans_cli.training.step import RunningStatistics, generators_kept, seed_all

SETTINGS = TrainSettings(steps=6, batch_size=4, lr=0.02, log_every=1, seed=5)


class Plain(nn.Module):
    """Without BatchNorm, whose parts are not those of the whole batch."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict({"conv1": nn.Conv2d(3, 8, 3, padding=1), "conv2": nn.Conv2d(8, 8, 3, padding=1)})
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.dropout(self.backbone["conv2"](self.backbone["conv1"](images).relu()).relu()))


def plain():
    torch.manual_seed(0)
    return Plain()


def run(experiment, accumulate, **settings):
    made = experiment(dataclasses.replace(SETTINGS, accumulate=accumulate, **settings), frozen=False, net=plain())
    figures = []
    made.run(progress=figures.append)
    return made, figures


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("accumulate", [2, 4])
def test_parts_are_the_whole_up_to_rounding(experiment, accumulate, optimizer):
    # AdamW divides by the root of what may be next to nothing, which makes much of a last bit.
    whole, figures = run(experiment, 1, optimizer=optimizer, grad_clip=0.1)
    parted, found = run(experiment, accumulate, optimizer=optimizer, grad_clip=0.1)
    for one, two in zip(figures, found, strict=True):
        assert two.terms == pytest.approx(one.terms, rel=1e-5)
        assert two.grad_norm == pytest.approx(one.grad_norm, rel=1e-3)
    start = plain().state_dict()
    for name, tensor in whole.state().items():
        moved = (tensor - start[name]).norm()
        assert moved > 0 and (parted.state()[name] - tensor).norm() < 2e-3 * moved, name


def test_bfloat16_trains_float32_parameters_much_as_float32_does(experiment):
    _, exact = run(experiment, 1)
    made, rounded = run(experiment, 1, precision="bfloat16")
    assert {p.dtype for p in made.net.parameters()} == {torch.float32}
    assert [f.loss for f in rounded] == pytest.approx([f.loss for f in exact], rel=0.02)
    assert [f.loss for f in rounded] != [f.loss for f in exact]


def overflowing(pixel_loss, steps):
    """A loss whose gradients pass what float16 can hold at some of its steps, though it is finite."""

    class Overflowing(pixel_loss):
        calls = -1

        def __call__(self, part, whole):
            self.calls += 1
            huge = 1e34 if self.calls in steps else 1.0  # times 2 ** 16 it is beyond float32 as well
            return {name: term * huge for name, term in super().__call__(part, whole).items()}

    return lambda called: Overflowing(called, lambda: None)


def test_a_step_whose_float16_gradients_overflow_is_left_out_and_halves_the_scale(experiment, pixel_loss, tmp_path):
    settings, figures, states = dataclasses.replace(SETTINGS, precision="float16", ema=0.5), [], []
    made = experiment(settings)

    def heard(found):
        figures.append(found)
        states.append(made.state())

    made.run(loss=overflowing(pixel_loss, {2}), progress=heard, checkpoint=tmp_path / "state")
    assert [f.grad_norm == float("inf") for f in figures] == [False, False, True, False, False, False]
    assert all(torch.equal(states[1][name], states[2][name]) for name in states[1])  # statistics too
    assert not all(torch.equal(states[2][name], states[3][name]) for name in states[1])
    assert load_meta(tmp_path / "state")["scale"] == {"value": 2.0**15, "good_steps": 3}


def test_float16_gives_up_when_no_scale_is_small_enough(experiment, pixel_loss):
    settings = dataclasses.replace(SETTINGS, steps=40, precision="float16")
    with pytest.raises(TrainingError, match=r"gradient is not finite: step 17 of 40; lower the learning rate"):

        class Root(pixel_loss):
            def __call__(self, part, whole):
                root = (self.called.head.weight * 0).sqrt().sum()
                return {**super().__call__(part, whole), "root": root}

        experiment(settings).run(loss=lambda called: Root(called, lambda: None))


CPU = torch.device("cpu")


def drawn(*numbers):
    seed_all(CPU, *numbers)
    return torch.rand(8).tolist()


def test_the_same_numbers_draw_the_same_and_others_something_else():
    assert drawn(0, 1) == drawn(0, 1)
    draws = [drawn(*numbers) for numbers in [(0, 0), (0, 1), (1, 0), (1, 1), (11,), (0,), (0, 2)]]
    assert len({tuple(values) for values in draws}) == 7


def test_the_callers_generator_goes_on_where_it_was():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first = torch.rand(2)
    with pytest.raises(KeyboardInterrupt), generators_kept(CPU):
        drawn(5)
        raise KeyboardInterrupt
    assert torch.equal(torch.cat([first, torch.rand(2)]), expected)


def test_a_forward_pass_on_nan_is_undone(small_net):
    net = small_net()
    kept = RunningStatistics(net)
    net(torch.randn(2, 3, 4, 4))
    kept.keep()
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    net(torch.full((2, 3, 4, 4), float("nan")))
    assert net.backbone.bn1.running_mean.isnan().all() and net.backbone.bn1.num_batches_tracked == 2
    kept.restore()
    assert all(torch.equal(buffer, before[name]) for name, buffer in net.named_buffers())


def test_a_net_without_batchnorm_has_nothing_to_keep():
    kept = RunningStatistics(torch.nn.Linear(2, 2))
    kept.keep()
    kept.restore()
