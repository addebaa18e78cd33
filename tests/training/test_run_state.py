"""A resumed run is the uninterrupted run bit for bit, whatever it is made of, and no other run is resumed."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from opentrans_cli.errors import TrainingError
from opentrans_cli.training.freezing import freeze_layers
from opentrans_cli.training.run_state import Average, LossScale
from opentrans_cli.training.settings import TrainSettings
from opentrans_cli.training.state_file import load_meta, read_run_state, under_prefix
from opentrans_cli.training.step import autocast

SETTINGS = TrainSettings(steps=6, batch_size=4, lr=0.02, lr_warmup_steps=2, save_every=2, log_every=1, seed=5)
KINDS = {
    "adamw": {},
    "adamw, averaged": {"ema": 0.8},
    "sgd, poly": {"optimizer": "sgd", "schedule": "poly"},
    "sgd without momentum, steps": {"optimizer": "sgd", "momentum": 0.0, "schedule": "steps", "milestones": (0.4, 0.7)},
    "in parts": {"accumulate": 2, "schedule": "constant"},
    "bfloat16, averaged, sgd": {"precision": "bfloat16", "ema": 0.8, "optimizer": "sgd"},
    "float16, in parts, averaged": {"precision": "float16", "accumulate": 2, "ema": 0.8},
    "float16, sgd, poly": {"precision": "float16", "optimizer": "sgd", "schedule": "poly", "grad_clip": 0.0},
}


def changed(**values):
    return dataclasses.replace(SETTINGS, **values)


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("stop", [1, 3, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_is_the_uninterrupted_run_bit_for_bit(experiment, batch, tmp_path, kind, stop):
    settings, state = changed(**KINDS[kind]), tmp_path / "state"

    def interrupted(step):
        if step == stop:
            raise KeyboardInterrupt
        return batch(step)

    whole = experiment(settings)
    log = whole.run(checkpoint=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        experiment(settings).run(batches=interrupted, checkpoint=state)
    resumed = experiment(settings)
    torch.manual_seed(1234)  # whatever happened in the new process before must not matter
    from_state = {"state": state} if state.exists() else {}
    resumed_log = resumed.run(**from_state, checkpoint=state)
    assert (resumed_log.losses, resumed_log.steps) == (log.losses, 6)
    assert same(resumed.state(), whole.state())
    assert state.read_bytes() == (tmp_path / "whole").read_bytes()
    assert not resumed.weight[resumed.removed].any() and resumed.weight[~resumed.removed].all()


@pytest.mark.parametrize("kind", KINDS)
def test_pruned_weights_are_exactly_zero_in_weights_and_averages(experiment, tmp_path, kind):
    made, seen = experiment(changed(weight_decay=0.3, **KINDS[kind])), []
    with torch.no_grad():
        made.weight.fill_(1.0)  # so that averages that began too early would tell
    made.run(checkpoint=tmp_path / "state", progress=lambda _: seen.append(bool(made.weight[made.removed].any())))
    tensors, _ = read_run_state(tmp_path / "state")
    held = [tensor for name, tensor in tensors.items() if name.endswith("backbone.conv1.weight")]
    assert len(held) == 1 + ("ema" in KINDS[kind])
    assert not any(tensor[made.removed].any() for tensor in held) and not any(seen)
    assert not made.weight[made.removed].any() and made.weight[~made.removed].all()
    assert torch.isfinite(made.weight).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_in_two_phases_resumes_bit_for_bit_before_at_and_after_the_boundary(experiment, batch, tmp_path, kind):
    """Four steps with everything trained, then layers are frozen; stopped at each step in turn."""
    settings = changed(save_every=1, **KINDS[kind])

    def phases(state, stop=None):
        def batches(step):
            if step == stop:
                raise KeyboardInterrupt
            return batch(step)

        taken = load_meta(state)["step"] if state.exists() else 0
        made = experiment(settings, frozen=False)
        if taken < 4:
            resumed = {"state": state} if state.exists() else {}
            made.run(batches=batches, checkpoint=state, stop_at=4, **resumed)
        made = experiment(settings, net=made.net)
        return made, made.run(batches=batches, checkpoint=state, state=state, narrowed=True)

    whole, log = phases(tmp_path / "whole")
    assert log.steps == 6
    for stop in range(1, 6):
        state = tmp_path / f"state{stop}"
        with pytest.raises(KeyboardInterrupt):
            phases(state, stop)
        resumed, resumed_log = phases(state)
        assert resumed_log.losses == log.losses and same(resumed.state(), whole.state())
        assert state.read_bytes() == (tmp_path / "whole").read_bytes()


def test_the_second_phase_keeps_what_it_trains_and_drops_the_rest(experiment, tmp_path):
    settings, state = changed(ema=0.8), tmp_path / "state"
    first = experiment(settings, frozen=False)
    log = first.run(checkpoint=state, stop_at=4)
    assert log.steps == 4 and load_meta(state)["step"] == 4
    before = read_run_state(state)[0]
    assert same(first.state(), under_prefix("model", before))  # the last parameters, not the averages
    second = experiment(settings, net=first.net)
    frozen = second.net.backbone.conv10.weight.clone()
    second.run(state=state, narrowed=True, checkpoint=state)
    after = read_run_state(state)[0]
    dropped = {name for name in before.keys() - after.keys()}
    slots = ("step", "exp_avg", "exp_avg_sq")
    parts = ("conv10.weight", "bn10.weight", "bn10.bias")
    assert dropped == {f"optimizer.backbone.{part}.{slot}" for part in parts for slot in slots} | {
        f"ema.backbone.{part}" for part in parts
    }
    assert after["optimizer.head.weight.step"] == 6  # carried over
    assert torch.equal(second.net.backbone.conv10.weight, frozen)
    assert log.losses == tuple(after["log.losses"].tolist()[:4])


def test_only_a_narrower_run_may_go_on_from_the_first_phase(experiment, tmp_path):
    experiment(SETTINGS, frozen=False).run(checkpoint=tmp_path / "wide", stop_at=2)
    with pytest.raises(TrainingError, match=r"\(trained, first at 'backbone.bn10.bias'\)"):
        experiment(SETTINGS).run(state=tmp_path / "wide")
    experiment(SETTINGS).run(checkpoint=tmp_path / "narrow", stop_at=2)
    with pytest.raises(TrainingError, match=r"\(trained, first at 'backbone.bn10.bias'\)"):
        experiment(SETTINGS, frozen=False).run(state=tmp_path / "narrow", narrowed=True)


def test_stopping_where_a_run_already_is_changes_nothing(experiment, tmp_path):
    state = tmp_path / "state"
    first = experiment(SETTINGS)
    first.run(checkpoint=state, stop_at=4)
    written = state.read_bytes()
    again = experiment(SETTINGS)
    assert again.run(state=state, checkpoint=state, stop_at=4).steps == 4
    assert same(again.state(), first.state()) and state.read_bytes() == written


@pytest.mark.parametrize("ema", [0.0, 0.8])
def test_resuming_a_finished_run_changes_nothing(experiment, tmp_path, ema):
    done, again = experiment(changed(ema=ema)), experiment(changed(ema=ema))
    log = done.run(checkpoint=tmp_path / "state")
    assert again.run(state=tmp_path / "state").losses == log.losses
    assert same(again.state(), done.state())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {"lr": 0.01}}, r"\(lr was 0.02, now 0.01\)"),
        ({"settings": {"schedule": "steps"}}, r"\(schedule was cosine, now steps\)"),
        ({"settings": {"milestones": (0.5,)}}, r"\(milestones was \[0.8, 0.9\], now \[0.5\]\)"),
        ({"settings": {"precision": "bfloat16"}}, r"\(precision was float32, now bfloat16\)"),
        ({"identity": {"mask": "b"}}, r"\(mask was a, now b\)"),
        ({"identity": {}}, r"\(mask was a, now None\)"),
    ],
)
def test_the_state_of_another_run_is_refused_with_what_differs(experiment, tmp_path, change, message):
    experiment(SETTINGS).run(checkpoint=tmp_path / "state", identity={"mask": "a"})
    other = experiment(changed(**change.get("settings", {})))
    before = other.state()
    with pytest.raises(TrainingError, match=message):
        other.run(state=tmp_path / "state", identity=change.get("identity", {"mask": "a"}))
    assert same(other.state(), before)


def test_how_often_it_is_written_or_looked_at_may_change(experiment, tmp_path):
    experiment(SETTINGS).run(checkpoint=tmp_path / "state", stop_at=3)
    rarer = changed(save_every=100, log_every=7, eval_every=4, max_minutes=60.0)
    assert experiment(rarer).run(state=tmp_path / "state", checkpoint=tmp_path / "state").steps == 6


def test_notes_are_kept_and_compared_with_nothing(experiment, tmp_path):
    state = tmp_path / "state"
    experiment(SETTINGS).run(checkpoint=state, stop_at=3, notes={"chosen": ["a"]})
    assert load_meta(state)["notes"] == {"chosen": ["a"]}
    experiment(SETTINGS).run(state=state, checkpoint=state, notes={"chosen": ["b"]})
    assert load_meta(state)["notes"] == {"chosen": ["b"]}


def test_a_frozen_layer_of_another_run_is_refused_by_name(experiment, tmp_path):
    experiment(SETTINGS).run(checkpoint=tmp_path / "state")
    other = experiment(SETTINGS)
    freeze_layers(other.net, ["head"], batchnorm_of={"head": None})
    with pytest.raises(TrainingError, match=r"trained, first at 'head.bias'"):
        other.run(state=tmp_path / "state")


def two():
    trained = {"a": nn.Parameter(torch.tensor([0.0, 2.0])), "b": nn.Parameter(torch.tensor(3.0))}
    average = Average(trained, 0.9)
    average.begin()
    return trained, average


def test_an_average_moves_by_its_decay_which_rises_in_the_first_updates():
    trained, average = two()
    expected = torch.tensor([0.0, 2.0])
    for number in range(200):
        with torch.no_grad():
            trained["a"][1] = number
        average.update(number)
        decay = min(0.9, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * torch.tensor([0.0, number])
        assert average.tensors["a"][0] == 0
        torch.testing.assert_close(average.tensors["a"], expected)
    assert average.tensors["a"][1] == pytest.approx(199 - 9, rel=1e-3)  # decay / (1 - decay) behind


def test_averages_are_shown_for_a_while_and_the_parameters_come_back_to_the_bit():
    trained, average = two()
    with torch.no_grad():
        trained["a"][1] = 0.1
    for error in (None, KeyboardInterrupt):
        try:
            with average.shown():
                assert trained["a"].tolist() == [0, 2]
                if error is not None:
                    raise error
        except KeyboardInterrupt:
            pass
        assert torch.equal(trained["a"], torch.tensor([0, 0.1]))
    average.fill()
    assert trained["a"].tolist() == [0, 2]


def test_begin_forgets_what_was_before():
    trained, average = two()
    with torch.no_grad():
        trained["a"].zero_()
    average.begin()
    assert average.tensors["a"].tolist() == [0, 0]


CPU = torch.device("cpu")


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_products_are_computed_in_the_precision_asked_for(precision):
    matrix = torch.ones(2, 2)
    with autocast(CPU, precision):
        assert (matrix @ matrix).dtype is getattr(torch, precision)
    assert (matrix @ matrix).dtype is torch.float32


def test_the_scale_is_that_of_torch_after_the_same_steps():
    ours, theirs = LossScale("float16"), torch.amp.GradScaler("cpu", growth_interval=2000)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0)
    theirs.scale(torch.zeros(1))
    for number in range(2300):
        bad = number in (3, 4, 250)
        weight.grad = torch.full((1,), float("inf") if bad else 1.0)
        theirs.step(optimizer)
        theirs.update()
        if bad:
            assert ours.back_off()
        else:
            ours.count_good()
        assert ours.value == theirs.get_scale()
    assert ours.value == 2.0**14


def test_a_scale_goes_on_where_it_stopped():
    first, second = LossScale("float16"), LossScale("float16")
    first.back_off()
    first.count_good()
    second.restore(first.state())
    assert second.state() == first.state() == {"value": 2.0**15, "good_steps": 1}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_without_float16_gradients_that_are_not_finite_are_the_end(precision):
    scale = LossScale(precision)
    assert not scale.back_off() and scale.value == 1 and scale.state() == {}
