"""The loop trains what is free, holds masks, resumes bit for bit, and stops at the first NaN."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from opentrans_cli.errors import TrainingError
from opentrans_cli.training.freezing import freeze_layers, state_hash
from opentrans_cli.training.loop import build_optimizer, train
from opentrans_cli.training.settings import TrainSettings

FROZEN = ("backbone.conv10", "backbone.bn10")
SETTINGS = TrainSettings(steps=6, lr=0.02, warmup_steps=2, checkpoint_every=3, log_every=1, seed=5)


def batch_of(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(2, 3, 8, 8, generator=generator), torch.randint(4, (2, 8, 8), generator=generator)


class Experiment:
    """A net with a frozen layer and a mask on another, ready to train."""

    def __init__(self, net):
        self.net = net
        freeze_layers(net, ["backbone.conv10"], batchnorm_of={"backbone.conv10": "backbone.bn10"})
        self.weight = net.backbone.conv1.weight
        self.removed = torch.rand(self.weight.shape, generator=torch.Generator().manual_seed(9)) < 0.5

    @torch.no_grad()
    def hold(self):
        self.weight[self.removed] = 0

    def loss(self, images, labels):
        return F.cross_entropy(self.net(images), labels)

    def run(self, *, batches=batch_of, settings=SETTINGS, **options):
        return train(self.net, batches, settings, loss=self.loss, after_step=self.hold, **options)


def stopped_at(last):
    """Batches until Ctrl-C at step `last`."""

    def batches(step):
        if step == last:
            raise KeyboardInterrupt
        return batch_of(step)

    return batches


def test_a_resumed_run_is_the_uninterrupted_run_bit_for_bit(small_net, tmp_path):
    whole, state = Experiment(small_net()), tmp_path / "state"
    frozen_before = state_hash(whole.net, FROZEN)
    log = whole.run(checkpoint=tmp_path / "whole")
    part = Experiment(small_net())
    with pytest.raises(KeyboardInterrupt):
        part.run(batches=stopped_at(5), checkpoint=state)
    resumed = Experiment(small_net())
    torch.manual_seed(1234)  # whatever happened in the new process before must not matter
    resumed_log = resumed.run(state=state, checkpoint=state)
    for name, tensor in whole.net.state_dict().items():
        assert torch.equal(resumed.net.state_dict()[name], tensor), name
    assert (resumed_log.losses, resumed_log.steps) == (log.losses, 6)
    assert state.read_bytes() == (tmp_path / "whole").read_bytes()
    assert not resumed.weight[resumed.removed].any()
    assert resumed.weight[~resumed.removed].all()
    assert state_hash(resumed.net, FROZEN) == frozen_before


def test_resuming_a_finished_run_changes_nothing(small_net, tmp_path):
    done = Experiment(small_net())
    log = done.run(checkpoint=tmp_path / "state")
    again = Experiment(small_net())
    assert again.run(state=tmp_path / "state").losses == log.losses
    for name, tensor in done.net.state_dict().items():
        assert torch.equal(again.net.state_dict()[name], tensor)


def test_masks_hold_after_every_step_and_before_the_first(small_net):
    experiment = Experiment(small_net())
    seen = []

    def loss(images, labels):
        seen.append(bool(experiment.weight[experiment.removed].any()))
        return experiment.loss(images, labels)

    train(experiment.net, batch_of, SETTINGS, loss=loss, after_step=experiment.hold)
    assert seen == [False] * 6


def test_the_run_depends_on_its_seed_and_leaves_the_callers_generator_alone(small_net):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = Experiment(small_net())
    torch.manual_seed(3)
    losses = first.run().losses
    assert torch.equal(torch.rand(2), expected)
    assert Experiment(small_net()).run().losses == losses
    other = TrainSettings(steps=6, lr=0.02, warmup_steps=2, seed=6)
    assert Experiment(small_net()).run(settings=other).losses != losses


def test_progress_hears_of_every_step_it_asked_for_and_of_the_last(small_net):
    heard = []
    settings = TrainSettings(steps=5, lr=0.02, log_every=2)
    log = Experiment(small_net()).run(settings=settings, progress=lambda step, figures: heard.append((step, figures)))
    assert [step for step, _ in heard] == [2, 4, 5]
    assert [figures["loss"] for _, figures in heard] == [log.losses[1], log.losses[3], log.losses[4]]
    assert heard[0][1].keys() == {"loss", "lr", "grad_norm"}


def test_training_lowers_the_loss(small_net):
    settings = TrainSettings(steps=60, lr=0.02)
    losses = Experiment(small_net()).run(batches=lambda step: batch_of(0), settings=settings).losses
    assert losses[-1] < losses[0] - 0.2


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_in_its_last_good_state(small_net, tmp_path, poison):
    def poisoned(step):
        images, labels = batch_of(step)
        return (images * poison if step == 4 else images), labels

    good = Experiment(small_net())
    with pytest.raises(KeyboardInterrupt):
        good.run(batches=stopped_at(4))
    bad, state = Experiment(small_net()), tmp_path / "state"
    with pytest.raises(TrainingError) as error:
        bad.run(batches=poisoned, checkpoint=state)
    assert str(error.value).startswith(f"loss is not finite: step 5 of 6 (the state before it is in {state}); lower")
    for name, tensor in good.net.state_dict().items():
        assert torch.equal(bad.net.state_dict()[name], tensor), name
    resumed = Experiment(small_net())
    assert resumed.run(state=state).losses == Experiment(small_net()).run().losses


def test_a_gradient_that_is_not_finite_stops_the_run(small_net):
    experiment = Experiment(small_net())

    def loss(images, labels):  # finite, but the root's slope at zero is not
        return experiment.loss(images, labels) + (experiment.net.head.weight * 0).sqrt().sum()

    with pytest.raises(TrainingError, match=r"gradient is not finite: step 1 of 6; lower the learning rate"):
        train(experiment.net, batch_of, SETTINGS, loss=loss)
    assert torch.isfinite(experiment.net.head.weight).all()


def test_nothing_to_train_is_told(small_net):
    net = small_net().requires_grad_(False)
    with pytest.raises(TrainingError, match=r"nothing to train: every parameter is frozen; freeze fewer"):
        train(net, batch_of, SETTINGS, loss=lambda images, labels: net(images).mean())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": TrainSettings(steps=6, lr=0.01, warmup_steps=2, seed=5)}, r"\(lr was 0.02, now 0.01\)"),
        ({"identity": {"mask": "b"}}, r"\(mask was a, now b\)"),
        ({"identity": {}}, r"\(mask was a, now None\)"),
    ],
)
def test_the_state_of_another_run_is_refused_with_what_differs(small_net, tmp_path, change, message):
    Experiment(small_net()).run(checkpoint=tmp_path / "state", identity={"mask": "a"})
    with pytest.raises(TrainingError, match=message):
        Experiment(small_net()).run(**{"state": tmp_path / "state", "identity": {"mask": "a"}, **change})


def test_a_run_that_froze_other_layers_is_refused_by_name(small_net, tmp_path):
    Experiment(small_net()).run(checkpoint=tmp_path / "state")
    unfrozen = small_net()
    with pytest.raises(TrainingError, match=r"trained, first at 'backbone.bn10.bias'"):
        train(
            unfrozen,
            batch_of,
            SETTINGS,
            loss=lambda images, labels: F.cross_entropy(unfrozen(images), labels),
            state=tmp_path / "state",
        )


def test_how_often_a_state_is_written_may_change(small_net, tmp_path):
    Experiment(small_net()).run(checkpoint=tmp_path / "state")
    rarer = TrainSettings(steps=6, lr=0.02, warmup_steps=2, seed=5, checkpoint_every=100, log_every=7)
    assert Experiment(small_net()).run(settings=rarer, state=tmp_path / "state").steps == 6


def test_only_matrices_decay_and_the_backbone_learns_slower(small_net):
    net = Experiment(small_net()).net
    trained = {name: p for name, p in net.named_parameters() if p.requires_grad}
    optimizer = build_optimizer(trained, TrainSettings(steps=1, weight_decay=0.05, backbone_lr_factor=0.1))
    of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert of.keys() == {id(p) for p in trained.values()}
    for name, parameter in trained.items():
        assert of[id(parameter)]["factor"] == (0.1 if name.startswith("backbone.") else 1)
        assert of[id(parameter)]["weight_decay"] == (0.05 if parameter.ndim > 1 else 0)
