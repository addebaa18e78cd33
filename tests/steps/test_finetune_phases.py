"""finetune in phases: a warm-up, a choice made once, a prefix with its features on disk; interrupted anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.clip.prefix import modules_until
from opentrans_cli.datasets.options import DatasetOptions
from opentrans_cli.errors import OptionError, RunStopped, TrainingError
from opentrans_cli.steps.analyze.analyze import analyze
from opentrans_cli.steps.finetune.finetune import finetune
from opentrans_cli.steps.finetune.options import FinetuneControls, FinetuneOptions
from opentrans_cli.steps.look.verify import verify
from opentrans_cli.steps.run_files import state_path
from opentrans_cli.steps.sources import bundle_tower

Content = Callable[[Path], dict[str, bytes]]

SCENES = DatasetOptions(limit=4)
WARM = FinetuneOptions(steps=6, batch_size=2, crop=64, warmup_steps=2, views=2, ema=0.5)
PREFIX = replace(WARM, freeze_prefix=True, prefix_end="layer2.0")
EVERY_STEP = FinetuneControls(save_every=1, timing_steps=0)


def run(
    bundle: Path, out: Path, options: FinetuneOptions, *, controls: FinetuneControls = EVERY_STEP, **more: Any
) -> Any:
    return finetune(bundle, out=out, **vars(options), **vars(controls), **{**vars(SCENES), "device": "cpu", **more})


class StopAt:
    """A reporter that interrupts when a bar of training says so many units."""

    def __init__(self, step: int) -> None:
        self.left = step

    def say(self, text: str) -> None:
        pass

    @contextmanager
    def bar(self, title: str, total: int, *, done: int = 0, left: object = None) -> Iterator[Callable[[str], None]]:
        def advance(status: str) -> None:
            if title in ("warming up", "fine-tuning"):
                self.left -= 1
                if self.left == 0:
                    raise KeyboardInterrupt

        yield advance


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    controls = replace(EVERY_STEP, cache_features=folder / "features")
    return Path(run(tiny_bundle, folder / "f", PREFIX, controls=controls).path)


@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_a_run_interrupted_in_either_phase_ends_in_the_same_bytes(
    step: int, whole: Path, tiny_bundle: Path, tmp_path: Path, content: Content
) -> None:
    """With a cache that is half filled when it stops, and a choice that only the weights of the warm-up could make."""
    controls = replace(EVERY_STEP, cache_features=tmp_path / "features")
    with pytest.raises(KeyboardInterrupt):
        run(tiny_bundle, tmp_path / "f", PREFIX, controls=controls, reporter=StopAt(step))
    run(tiny_bundle, tmp_path / "f", PREFIX, controls=controls, resume=True)
    assert content(tmp_path / "f") == content(whole)
    assert not state_path(tmp_path / "f").exists()


def test_the_state_of_another_bundle_is_refused_before_anything_is_restored(
    whole: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tiny_bundle, tmp_path / "f", WARM, reporter=StopAt(2))
    with pytest.raises(TrainingError, match=r"state of another run: .* \(bundle was sha256:.*--resume"):
        run(whole, tmp_path / "f", WARM, resume=True)


def test_the_log_of_a_resumed_run_has_every_step_once(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tiny_bundle, tmp_path / "f", WARM, reporter=StopAt(4))
    result = run(tiny_bundle, tmp_path / "f", WARM, resume=True)
    lines = [json.loads(line) for line in result.log.read_text().splitlines()]
    for line in lines:
        check_document(line, "run_log_line")
    assert [line["step"] for line in lines if line["event"] == "step"] == [1, 2, 3, 4, 5, 6]
    events = [line["event"] for line in lines if line["event"] != "step"]
    assert events == ["start", "freeze", "stop", "start", "end"] or events == ["start", "freeze", "start", "end"]


def test_what_is_frozen_after_a_warm_up_is_what_its_weights_say(tiny_bundle: Path, tmp_path: Path) -> None:
    """The weights that a run of the warm-up alone leaves, analyzed, give the choice; the parent's need not."""
    result = run(tiny_bundle, tmp_path / "f", replace(WARM, ema=0.0, schedule="constant"))
    alone = replace(WARM, ema=0.0, schedule="constant", steps=2, warmup_steps=0, freeze="none", lr_warmup_steps=0)
    run(tiny_bundle, tmp_path / "w", alone)
    report = analyze(str(tmp_path / "w"))
    assert set(result.cost["frozen_layers"]) == set(report.frozen)
    # What was frozen stands in the receipt; it is not as it was in the parent, for the warm-up trained all of it.
    assert {f"{layer}.weight" for layer in report.frozen} <= result.cost["frozen_tensors"].keys()
    assert verify(result.path, parents=[tiny_bundle]).ok


def test_a_prefix_stays_bit_for_bit_and_what_is_above_it_learns(tiny_bundle: Path, tmp_path: Path) -> None:
    options = replace(PREFIX, warmup_steps=0, freeze="none", ema=0.0, lr=0.1, views=0)
    result = run(tiny_bundle, tmp_path / "f", options)
    parent, child = open_bundle(tiny_bundle), open_bundle(result.path)
    inside = modules_until(bundle_tower(parent).visual, "layer2.0")
    before, after = parent.tower(), child.tower()
    changed = {name for name in before if before[name].tobytes() != after[name].tobytes()}
    assert inside and not [name for name in changed if name.rpartition(".")[0] in inside]
    assert {f"{layer}.weight" for layer in ("layer3.0.conv1", "layer4.0.conv3")} <= changed
    assert verify(result.path, parents=[tiny_bundle]).ok


def test_a_cached_prefix_costs_its_forward_pass_once_a_crop(tiny_bundle: Path, tmp_path: Path) -> None:
    options = replace(PREFIX, warmup_steps=0, ema=0.0, steps=20, lr=1e-5)
    costs = {}
    for name, cache in {"plain": None, "cached": tmp_path / "features"}.items():
        controls = replace(EVERY_STEP, cache_features=cache)
        costs[name] = run(tiny_bundle, tmp_path / name, options, controls=controls).cost
    crops, images = 4 * 2, 20 * 2
    assert costs["cached"]["phases"][-1]["cached_views"] == crops
    saved = costs["plain"]["run"]["dense"]["forward"] - costs["cached"]["run"]["dense"]["forward"]
    assert saved > 0 and saved % (images - crops) == 0
    for part in ("input_gradient", "weight_gradient"):
        assert costs["plain"][part] == costs["cached"][part]
    # Features of the same crops: the weights agree to rounding.
    first, second = (open_bundle(tmp_path / name).head() for name in costs)
    assert first is not None and second is not None
    for name, array in first.items():
        torch.testing.assert_close(torch.from_numpy(array), torch.from_numpy(second[name]), atol=1e-4, rtol=1e-3)


def test_a_run_that_is_out_of_time_goes_on_to_the_same_bytes(
    tiny_bundle: Path, tmp_path: Path, content: Content
) -> None:
    short = replace(WARM, views=0)
    run(tiny_bundle, tmp_path / "a", short)
    controls = replace(EVERY_STEP, max_minutes=1e-6)
    stopped = 0
    for _ in range(20):
        try:
            run(tiny_bundle, tmp_path / "b", short, controls=controls, resume=True)
            break
        except RunStopped as error:
            assert "--resume" in str(error) and error.exit_code == 75
            stopped += 1
    assert stopped >= 5
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_a_resumed_run_must_be_of_the_same_options(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tiny_bundle, tmp_path / "f", WARM, reporter=StopAt(4))
    for change in ({"kd_weight": 1.0}, {"freeze_ratio": 0.2}, {"scale": (1.0, 1.0)}, {"optimizer": "sgd"}):
        with pytest.raises(TrainingError, match="state of another"):
            run(tiny_bundle, tmp_path / "f", replace(WARM, **change), resume=True)


def test_a_run_with_a_cache_is_gone_on_with_by_one_and_its_record_says_so(tiny_bundle: Path, tmp_path: Path) -> None:
    controls = replace(EVERY_STEP, cache_features=tmp_path / "features")
    with pytest.raises(KeyboardInterrupt):
        run(tiny_bundle, tmp_path / "f", PREFIX, controls=controls, reporter=StopAt(4))
    with pytest.raises(TrainingError, match="state of another run"):
        run(tiny_bundle, tmp_path / "f", PREFIX, resume=True)
    run(tiny_bundle, tmp_path / "f", PREFIX, controls=controls, resume=True)
    step = open_bundle(tmp_path / "f").manifest.steps[-1]
    assert step.options["cache_features"] == "features"  # the script that repeats it makes a folder of that name


@pytest.mark.parametrize(
    ("options", "controls", "said"),
    [
        ({}, {"cache_features": Path("c")}, "--views"),
        ({"views": 1}, {"cache_features": Path("c")}, "--freeze-prefix"),
        ({}, {"save_every": 0}, "--save-every"),
        ({}, {"timing_steps": -1}, "--timing-steps"),
        ({}, {"shard": True}, "torchrun"),
        ({"prefix_end": "layer9.9"}, {}, "layer9.9"),
        ({"warmup_steps": 7}, {}, "warm-up"),
        ({"freeze_scope": "all"}, {}, "scope"),
        ({"framework": "deeplabv3", "grounding_weight": 1.0}, {}, "grounding"),
    ],
)
def test_what_contradicts_itself_is_refused_and_nothing_is_left(
    options: dict[str, Any], controls: dict[str, Any], said: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=said):
        given = FinetuneOptions(**{"steps": 6, "batch_size": 2, "crop": 64, **options})
        run(tiny_bundle, tmp_path / "f", given, controls=replace(EVERY_STEP, **controls))
    assert not (tmp_path / "f").exists() and not state_path(tmp_path / "f").exists()
