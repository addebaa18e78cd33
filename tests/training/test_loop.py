"""The loop trains what is free, holds masks, stops at the first NaN and in time, and looks on without touching."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import time

import pytest
import torch
import torch.nn.functional as F

from opentrans_cli.errors import OptionError, RunStopped, TrainingError
from opentrans_cli.training.freezing import state_hash
from opentrans_cli.training.settings import TrainSettings
from opentrans_cli.training.state_file import load_meta

SETTINGS = TrainSettings(steps=6, lr=0.02, lr_warmup_steps=2, save_every=3, log_every=1, seed=5)


def changed(**values):
    return dataclasses.replace(SETTINGS, **values)


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def stopped_at(last, batch):
    """Batches until Ctrl-C at step `last`."""

    def batches(step):
        if step == last:
            raise KeyboardInterrupt
        return batch(step)

    return batches


def poisoned_at(last, batch, poison=float("nan")):
    def batches(step):
        images, labels = batch(step)
        return (images * poison if step == last else images), labels

    return batches


def test_masks_hold_after_every_step_and_before_the_first(experiment, pixel_loss):
    made, seen = experiment(SETTINGS), []

    def loss(called):
        return pixel_loss(called, lambda: seen.append(bool(made.weight[made.removed].any())))

    made.run(loss=loss)
    assert seen == [False] * 6
    assert made.weight[~made.removed].all()


def test_the_run_depends_on_its_seed_and_leaves_the_callers_generator_alone(experiment):
    made = experiment(SETTINGS)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    losses = made.run().losses
    assert torch.equal(torch.rand(2), expected)
    assert experiment(SETTINGS).run().losses == losses
    assert experiment(changed(seed=6)).run().losses != losses


def test_progress_hears_of_every_step_it_asked_for_and_of_the_last(experiment):
    heard = []
    log = experiment(TrainSettings(steps=5, lr=0.02, log_every=2, schedule="constant")).run(progress=heard.append)
    assert [figures.step for figures in heard] == [2, 4, 5]
    assert [figures.loss for figures in heard] == [log.losses[1], log.losses[3], log.losses[4]]
    for figures in heard:
        assert figures.terms == {"pixels": figures.loss / 2, "rest": figures.loss / 2}
        assert figures.lr == 0.02 and figures.grad_norm > 0 and figures.seconds > 0


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_loss_and_the_norm_before_clipping_are_those_of_the_whole_batch(experiment, batch, accumulate):
    settings, heard = TrainSettings(steps=1, batch_size=4, accumulate=accumulate, grad_clip=0.01, log_every=1), []
    made, twin = experiment(settings), experiment(settings)
    for net in (made.net, twin.net):
        net.dropout.p = 0
        net.backbone.bn1.requires_grad_(False)
    images, labels = batch(0)
    with torch.no_grad():
        twin.weight[twin.removed] = 0
    expected = sum(
        F.cross_entropy(twin.net(image), label) / accumulate
        for image, label in zip(images.chunk(accumulate), labels.chunk(accumulate), strict=True)
    )
    expected.backward()
    norm = sum(float(p.grad.square().sum()) for p in twin.net.parameters() if p.grad is not None) ** 0.5
    made.run(progress=heard.append)
    assert heard[0].loss == pytest.approx(float(expected.detach()), rel=1e-5)
    assert heard[0].grad_norm == pytest.approx(norm, rel=1e-5) and norm > 0.01


def test_gradients_longer_than_the_limit_are_shortened_to_it(experiment):
    """One step of plain SGD at rate 1 moves the parameters by the gradients."""
    free = {"steps": 1, "optimizer": "sgd", "momentum": 0, "lr": 1.0, "weight_decay": 0, "backbone_lr_factor": 1}
    moved = {}
    for limit in (0, 0.01, 100):
        made = experiment(TrainSettings(**free, grad_clip=limit))
        with torch.no_grad():
            made.weight[made.removed] = 0
        before = [p.detach().clone() for p in made.net.parameters()]
        made.run(after_step=None)
        differences = [p.detach() - b for p, b in zip(made.net.parameters(), before, strict=True)]
        moved[limit] = torch.cat([difference.flatten() for difference in differences])
    assert float(moved[0.01].norm()) == pytest.approx(0.01, rel=1e-3)
    assert torch.equal(moved[0], moved[100])
    assert torch.nn.functional.cosine_similarity(moved[0], moved[0.01], dim=0) > 0.999


def test_training_lowers_the_loss(experiment, batch):
    losses = experiment(TrainSettings(steps=60, lr=0.02)).run(batches=lambda step: batch(0)).losses
    assert losses[-1] < losses[0] - 0.1


def test_a_frozen_layer_does_not_move(experiment):
    made, names = experiment(SETTINGS), ("backbone.conv10", "backbone.bn10")
    before = state_hash(made.net, names)
    made.run()
    assert state_hash(made.net, names) == before


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_in_its_last_good_state(
    experiment, batch, tmp_path, poison, accumulate
):
    settings, state = changed(accumulate=accumulate, ema=0.9), tmp_path / "state"
    good = experiment(settings)
    with pytest.raises(KeyboardInterrupt):
        good.run(batches=stopped_at(4, batch))
    bad = experiment(settings)
    with pytest.raises(TrainingError) as error:
        bad.run(batches=poisoned_at(4, batch, poison), checkpoint=state)
    assert str(error.value).startswith(f"loss is not finite: step 5 of 6 (the state before it is in {state}); lower")
    assert same(good.state(), bad.state())
    assert experiment(settings).run(state=state).losses == experiment(settings).run().losses


def test_a_gradient_that_is_not_finite_stops_the_run(experiment, pixel_loss):
    made = experiment(SETTINGS)

    class Root(pixel_loss):
        def __call__(self, part, whole):  # finite, but the root's slope at zero is not
            return {**super().__call__(part, whole), "root": (made.net.head.weight * 0).sqrt().sum()}

    with pytest.raises(TrainingError, match=r"gradient is not finite: step 1 of 6; lower the learning rate"):
        made.run(loss=lambda called: Root(called, lambda: None))
    assert torch.isfinite(made.net.head.weight).all()


def test_a_full_disk_keeps_the_state_before(experiment, tmp_path, monkeypatch):
    state, written = tmp_path / "state", os.fsync

    def full_from_the_second_on(descriptor):
        if state.exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        written(descriptor)

    monkeypatch.setattr(os, "fsync", full_from_the_second_on)
    with pytest.raises(TrainingError, match=r"cannot write: .*No space left on device; check free space"):
        experiment(SETTINGS).run(checkpoint=state)
    assert load_meta(state)["step"] == 3
    monkeypatch.undo()
    assert experiment(SETTINGS).run(state=state).losses == experiment(SETTINGS).run().losses


def test_nothing_to_train_is_told(experiment):
    made = experiment(SETTINGS)
    made.net.requires_grad_(False)
    with pytest.raises(TrainingError, match=r"nothing to train: every parameter is frozen; freeze fewer"):
        made.run()


def test_a_share_that_does_not_divide_into_its_parts_is_told(experiment):
    with pytest.raises(OptionError, match=r"must divide into its parts: 4 by 8; choose another --accumulate"):
        experiment(TrainSettings(steps=1, batch_size=8, accumulate=8)).run()


# Looking on.


@pytest.mark.parametrize("ema", [0.0, 0.7])
def test_evaluating_sees_the_averages_in_eval_mode_and_changes_nothing(experiment, batch, ema):
    plain = experiment(changed(ema=ema))
    losses = plain.run().losses
    made, seen, heard = experiment(changed(ema=ema, eval_every=2)), [], []

    def evaluate():
        seen.append((made.state(), [part.training for part in made.net.modules()]))
        torch.manual_seed(11)
        made.net(batch(0)[0]).sum().backward()
        return {"miou": torch.rand(()).item()}

    log = made.run(evaluate=evaluate, on_evaluation=lambda step, figures: heard.append((step, *figures)))
    assert log.losses == losses and same(made.state(), plain.state())
    assert heard == [(2, "miou"), (4, "miou"), (6, "miou")]
    assert not any(any(modes) for _, modes in seen)
    assert same(seen[-1][0], made.state())  # what is left in the model at the end
    assert all(not state["backbone.conv1.weight"][made.removed].any() for state, _ in seen)
    raw = experiment(changed(eval_every=2))
    raw.run(evaluate=lambda: seen.append((raw.state(), [])) or {})
    assert same(seen[-1][0], seen[2][0]) == (ema == 0)


def test_figures_and_evaluation_come_before_the_state_of_their_step(experiment, tmp_path):
    state, order = tmp_path / "state", []

    def note(what):
        order.append((what, load_meta(state)["step"] if state.exists() else 0))

    experiment(changed(eval_every=3, log_every=3)).run(
        checkpoint=state,
        progress=lambda figures: note("figures"),
        evaluate=lambda: {},
        on_evaluation=lambda step, figures: note("evaluation"),
    )
    assert order == [("figures", 0), ("evaluation", 0), ("figures", 3), ("evaluation", 3)]


# Time.


def test_when_the_time_is_up_a_state_is_left_from_which_the_run_goes_on(experiment, tmp_path, monkeypatch):
    whole, state = experiment(SETTINGS), tmp_path / "state"
    losses = whole.run().losses
    clock = iter([0.0, 10.0, 59.0, 61.0, 62.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with pytest.raises(RunStopped) as error:
        experiment(changed(max_minutes=1.0)).run(checkpoint=state)
    monkeypatch.undo()
    assert (error.value.reason, error.value.after, error.value.state) == ("the time is up", "step 3 of 6", state)
    assert error.value.exit_code == 75
    resumed = experiment(changed(max_minutes=9.0))
    assert resumed.run(state=state, checkpoint=state).losses == losses
    assert same(resumed.state(), whole.state())


def test_a_run_that_ends_as_its_time_does_has_ended(experiment, tmp_path):
    assert experiment(TrainSettings(steps=1, max_minutes=1e-9)).run(checkpoint=tmp_path / "state").steps == 1


def test_a_limit_of_time_without_a_place_for_the_state_is_refused(experiment):
    with pytest.raises(OptionError, match=r"needs a state to go on from"):
        experiment(changed(max_minutes=1.0)).run()


@pytest.mark.parametrize(
    ("signals", "kind", "step"),
    [
        ([signal.SIGTERM], RunStopped, 3),
        ([signal.SIGINT], KeyboardInterrupt, 3),
        ([signal.SIGTERM, signal.SIGTERM], RunStopped, 3),
        ([signal.SIGINT, signal.SIGINT], KeyboardInterrupt, 1),  # at once: the state is the last that was saved
    ],
)
def test_signals_end_a_run_after_its_step_and_a_second_ctrl_c_at_once(
    experiment, batch, tmp_path, signals, kind, step, monkeypatch
):
    monkeypatch.setattr("opentrans_cli.signals._DOUBLED", -1.0)
    state, handlers = tmp_path / "state", [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    def batches(number):
        for each in signals if number == 2 else ():
            signal.raise_signal(each)
        return batch(number)

    with pytest.raises(kind):
        experiment(changed(save_every=1 if step == 1 else 100)).run(batches=batches, checkpoint=state)
    assert load_meta(state)["step"] == (2 if step == 1 else 3)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert experiment(SETTINGS).run(state=state).losses == experiment(SETTINGS).run().losses


def test_another_learning_rate_may_go_on_where_it_is_allowed(experiment, batch, tmp_path):
    state = tmp_path / "state"
    experiment(SETTINGS).run(checkpoint=state, stop_at=3)
    slower = {"rate": lambda step: 1e-3, "rate_may_change": True}
    with pytest.raises(TrainingError, match="lr was"):
        experiment(changed(lr=0.01)).run(state=state)
    heard = []
    experiment(changed(lr=0.01)).run(state=state, progress=heard.append, **slower)
    assert [figures.lr for figures in heard] == [1e-3] * 3
    with pytest.raises(
        TrainingError, match=r"lower the learning rate \(now 0.01\): --resume with it goes on from step 3"
    ):
        experiment(changed(lr=0.01)).run(batches=poisoned_at(4, batch), state=state, checkpoint=state, **slower)
    assert load_meta(state)["step"] == 3
