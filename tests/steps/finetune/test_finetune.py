"""finetune: pruned weights stay zero, frozen layers stay as they are, unseen classes stay unseen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from opentrans_cli.bundle.store import Bundle, open_bundle
from opentrans_cli.clip.architecture import build_visual
from opentrans_cli.clip.layers import batchnorm_of, convolutions, tensors
from opentrans_cli.datasets.images import read_label_map
from opentrans_cli.datasets.options import DatasetOptions
from opentrans_cli.errors import OptionError, TrainingError
from opentrans_cli.steps.finetune.finetune import finetune
from opentrans_cli.steps.finetune.options import FinetuneOptions
from opentrans_cli.steps.look.verify import verify
from opentrans_cli.steps.run_files import state_path
from opentrans_cli.steps.transfer.transfer import transfer

Content = Callable[[Path], dict[str, bytes]]

FOUR_SCENES = DatasetOptions(limit=4)


def short(**changes: Any) -> FinetuneOptions:
    return FinetuneOptions(**{"steps": 3, "batch_size": 2, "crop": 64, **changes})


def long(**changes: Any) -> FinetuneOptions:
    """Past the hundredth step, after which a state is written."""
    return short(**{"steps": 105, "crop": 32, **changes})


def folder_options(folder: Any, **changes: Any) -> DatasetOptions:
    given = {"images": folder.images, "labels": folder.labels, "classes": folder.classes}
    return DatasetOptions(**{**given, **changes})


def layers_with_batchnorm(bundle: Bundle) -> dict[str, str]:
    visual = build_visual(bundle.manifest.base.model_cfg, tensors(bundle.tower()))
    return {layer: batchnorm_of(visual, layer) or "" for layer in convolutions(visual)}


def test_the_same_options_give_the_same_bytes(tiny_bundle: Path, tmp_path: Path, content: Content) -> None:
    for name in ("one", "two"):
        finetune(tiny_bundle, out=tmp_path / name, **vars(short()), **vars(FOUR_SCENES), device="cpu")
    assert content(tmp_path / "one") == content(tmp_path / "two")
    finetune(tiny_bundle, out=tmp_path / "other", **vars(short(seed=1)), **vars(FOUR_SCENES), device="cpu")
    assert open_bundle(tmp_path / "other").digest != open_bundle(tmp_path / "one").digest


def test_masks_stay_and_pruned_weights_are_exactly_zero(tiny_bundle: Path, tmp_path: Path) -> None:
    result = finetune(
        tiny_bundle, out=tmp_path / "f", **vars(short(lr=0.1, freeze="none")), **vars(FOUR_SCENES), device="cpu"
    )
    parent, child = open_bundle(tiny_bundle), open_bundle(result.path)
    for layer, mask in parent.masks().items():
        assert np.array_equal(child.masks()[layer], mask)
        assert not child.tower()[f"{layer}.weight"][~mask].any()
    assert verify(result.path).ok


@pytest.mark.parametrize("freeze", ["heavy", "light", "random"])
def test_frozen_layers_and_their_statistics_stay_bit_for_bit_and_all_others_learn(
    freeze: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    options = short(freeze=freeze, lr=0.05)
    result = finetune(tiny_bundle, out=tmp_path / "f", **vars(options), **vars(FOUR_SCENES), device="cpu")
    parent, child = open_bundle(tiny_bundle), open_bundle(result.path)
    before, after = parent.tower(), child.tower()
    partners = layers_with_batchnorm(parent)
    frozen = set(result.cost["frozen_layers"])
    assert len(frozen) == len(partners) // 2 and frozen <= partners.keys()
    for layer, batchnorm in partners.items():
        names = [f"{layer}.weight", *(name for name in before if name.startswith(f"{batchnorm}."))]
        assert len(names) == 6
        changed = [name for name in names if before[name].tobytes() != after[name].tobytes()]
        assert changed == ([] if layer in frozen else names), layer


def test_with_no_layer_frozen_every_layer_learns(tiny_bundle: Path, tmp_path: Path) -> None:
    result = finetune(tiny_bundle, out=tmp_path / "f", **vars(short(freeze="none")), **vars(FOUR_SCENES), device="cpu")
    before, after = open_bundle(tiny_bundle).tower(), open_bundle(result.path).tower()
    assert result.cost["frozen_layers"] == []
    assert all(
        (before[f"{layer}.weight"] != after[f"{layer}.weight"]).any() for layer in open_bundle(tiny_bundle).masks()
    )


def test_what_is_drawn_on_unseen_classes_never_reaches_training(
    tiny_bundle: Path, tmp_path: Path, labelled_folder: Any, content: Content
) -> None:
    """A data set that shows its unseen class and one that hides it train the same network."""
    hidden = tmp_path / "labels-without-blue"
    shutil.copytree(labelled_folder.labels, hidden)
    for path in hidden.iterdir():
        label_map = read_label_map(path)
        Image.fromarray(np.where(label_map == 2, 255, label_map).astype(np.uint8)).save(path)
    trained = {}
    for name, labels in {"shown": labelled_folder.labels, "hidden": hidden}.items():
        data = folder_options(labelled_folder, labels=labels, hold_out=("blue square",))
        result = finetune(
            tiny_bundle, out=tmp_path / name, **vars(short(steps=4)), dataset="folder", **vars(data), device="cpu"
        )
        trained[name] = content(result.path)
        assert open_bundle(result.path).manifest.segmentor.seen == ("grass", "red square")  # type: ignore[union-attr]
    for file in ("weights.safetensors", "segmentor.safetensors"):
        assert trained["shown"][file] == trained["hidden"][file]


def test_a_class_that_is_seen_does_change_training(tiny_bundle: Path, tmp_path: Path, labelled_folder: Any) -> None:
    digests = []
    for hold_out in ((), ("blue square",)):
        data = folder_options(labelled_folder, hold_out=hold_out)
        out = tmp_path / f"f{len(hold_out)}"
        finetune(tiny_bundle, out=out, **vars(short()), dataset="folder", **vars(data), device="cpu")
        digests.append(open_bundle(out).digest)
    assert digests[0] != digests[1]


def test_training_goes_on_with_the_head_a_bundle_has(tiny_segmentor: Path, tmp_path: Path) -> None:
    """A second run starts from the first one's segmentor: with a learning rate near zero it stays what it is."""
    options = short(lr=1e-12, freeze="none", weight_decay=0.0)
    result = finetune(tiny_segmentor, out=tmp_path / "f", **vars(options), **vars(FOUR_SCENES), device="cpu")
    before, after = open_bundle(tiny_segmentor).head(), open_bundle(result.path).head()
    assert before is not None and after is not None and before.keys() == after.keys()
    learned = [name for name in before if not any(part in name for part in ("running", "num_batches"))]
    assert learned and all(np.allclose(before[name], after[name], atol=1e-6) for name in learned)
    verbs = [step.verb for step in open_bundle(result.path).manifest.steps]
    assert verbs == ["prune", "finetune", "finetune"]


def test_the_receipt_is_in_the_bundle_and_proves_the_freezing(tiny_segmentor: Path) -> None:
    bundle = open_bundle(tiny_segmentor)
    receipt = json.loads(bundle.read("reports/finetune.json"))
    assert receipt["images"] == 4 and receipt["resolution"] == [64, 64]
    assert receipt["frozen_hash"].startswith("sha256:")
    assert receipt["total"] == receipt["forward"] + receipt["input_gradient"] + receipt["weight_gradient"]
    assert receipt["total"] < receipt["dense_total"]
    assert bundle.manifest.steps[-1].metrics["training_macs"] == receipt["total"]


def test_a_loss_that_is_not_finite_leaves_no_bundle(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="is not finite"):
        finetune(tiny_bundle, out=tmp_path / "f", **vars(short(lr=1e8, steps=9)), **vars(FOUR_SCENES), device="cpu")
    assert {path.name for path in tmp_path.iterdir()} == {state_path(tmp_path / "f").name, "f.log.jsonl"}


def test_a_framework_without_a_head_has_nothing_to_train(tiny_bundle: Path, tmp_path: Path) -> None:
    transfer(tiny_bundle, to="maskclip", out=tmp_path / "t")
    with pytest.raises(OptionError, match="segmentor has nothing to train: maskclip"):
        finetune(tmp_path / "t", out=tmp_path / "f", **vars(short()), **vars(FOUR_SCENES), device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    """The long run nobody interrupts."""
    out = tmp_path_factory.mktemp("whole") / "f"
    return finetune(tiny_bundle, out=out, **vars(long()), **vars(FOUR_SCENES), device="cpu").path


def test_an_interrupted_run_ends_in_the_bytes_of_an_uninterrupted_one(
    whole: Path, tiny_bundle: Path, tmp_path: Path, content: Content, interruption: Any
) -> None:
    out = tmp_path / "f"
    # Without an alpha report the first bar is that of the spectra.
    with pytest.raises(KeyboardInterrupt):
        finetune(
            tiny_bundle,
            out=out,
            **vars(long()),
            **vars(FOUR_SCENES),
            device="cpu",
            reporter=interruption(bar=2, at=103),
        )
    assert {*tmp_path.iterdir()} == {state_path(out), tmp_path / "f.log.jsonl"}
    for change in ({"lr": 0.1}, {"freeze": "light"}, {"seed": 1}):
        with pytest.raises(TrainingError, match="state of another run"):
            finetune(tiny_bundle, out=out, **vars(long(**change)), **vars(FOUR_SCENES), device="cpu", resume=True)
    finetune(tiny_bundle, out=out, **vars(long()), **vars(FOUR_SCENES), device="cpu", resume=True)
    assert content(out) == content(whole)
    assert {*tmp_path.iterdir()} == {out, tmp_path / "f.log.jsonl"}
