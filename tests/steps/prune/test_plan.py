"""The plan of a run: every layer is listed with a reason, what cannot be is refused, and prune does what is planned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.errors import OptionError
from opentrans_cli.steps.prune.options import PRUNE_RECIPES, PruneOptions, prune_options
from opentrans_cli.steps.prune.plan import plan
from opentrans_cli.steps.prune.prune import prune

Options = Callable[..., PruneOptions]


def tiny(**changes: Any) -> PruneOptions:
    return PruneOptions(**{"source": "tiny", "sparsity": 0.5, **changes})


def test_every_layer_of_the_tower_is_listed_with_its_size_and_why_it_stays_dense() -> None:
    document = plan(tiny()).to_json()
    check_document(document, "prune_plan")
    reasons = {layer["name"]: layer["reason"] for layer in document["layers"]}
    assert {name for name, reason in reasons.items() if reason == "input layer"} == {"conv1"}
    assert {name for name, reason in reasons.items() if reason == "output head"} == {
        f"attnpool.{part}_proj" for part in "qkvc"
    }
    pruned = [layer for layer in document["layers"] if layer["pruned"]]
    assert sum(layer["total"] for layer in pruned) == document["total"]


def test_globs_choose_layers_and_their_reason_is_told() -> None:
    made = plan(tiny(include=("attnpool.?_proj",), exclude=("layer1.*", "attnpool.q_proj")))
    assert {"attnpool.k_proj", "attnpool.c_proj", "layer2.0.conv1"} <= set(made.tower.masks)
    assert not [layer for layer in made.tower.masks if layer.startswith("layer1.") or layer == "attnpool.q_proj"]
    assert {layer["name"]: layer["reason"] for layer in made.layers}["layer1.0.conv1"] == "not chosen"


def test_prune_keeps_in_every_round_what_the_plan_says(tmp_path: Path, distilled: Options) -> None:
    options = distilled(schedule="cubic", rounds=3, exclude=("layer4.*",))
    rows = plan(options).to_json()["rounds"]
    result = prune(**vars(options), out=tmp_path / "b", device="cpu")
    assert result.rounds == len(rows) == 3 and result.kept == rows[-1]["kept"]


def test_a_layer_that_cannot_take_the_pattern_is_left_dense_and_named() -> None:
    class Listener:
        said: list[str] = []  # noqa: RUF012 one test, one list

        def say(self, text: str) -> None:
            self.said.append(text)

    made = plan(tiny(pattern="3:5", sparsity=0.4, include=("conv1",)), reporter=Listener())  # type: ignore[arg-type]
    left = {layer["name"] for layer in made.layers if layer["reason"] == "inputs not divisible by 5: 3"}
    assert left == {"conv1"} or "conv1" in left
    assert any(text.startswith("left dense: conv1: inputs not divisible by 5") for text in Listener.said)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"pattern": "2:4", "sparsity": 0.6}, "pattern has one sparsity: 2:4 removes 0.5, asked for 0.6"),
        ({"include": ("nowhere.*",)}, r"no layer is called so: --include nowhere.\*"),
        ({"exclude": ("*",)}, "no layer is left to prune"),
        ({"pattern": "4:2"}, "pattern out of range: '4:2'"),
        ({"pattern": "n_m"}, "write N:M such as 2:4"),
        ({"criterion": "gradient"}, "unknown criterion: 'gradient'"),
        ({"schedule": "sawtooth"}, "unknown schedule: 'sawtooth'"),
        ({"schedule": "linear", "rounds": 0}, "out of range: --rounds 0; give 1 to 255"),
        ({"distill": "labels"}, "unknown distillation: 'labels'"),
        ({"precision": "int8"}, "unknown precision: 'int8'"),
        ({"keep_rounds": "all"}, "unknown choice of rounds to keep: 'all'"),
        ({"mask_only": True, "keep_rounds": "weights"}, "--mask-only stores no values"),
        ({"distill": "text-guided"}, "text-guided distillation needs images"),
        ({"distill": "text-guided", "images": "photos"}, "needs labelled regions: --labels and --classes"),
        ({"labels": "maps"}, "no use for label maps: --labels; add --distill text-guided"),
        ({"probes": 0}, "out of range: --probes 0; give 1 or more"),
        ({"grad_clip": -1.0}, "out of range: --grad-clip -1.0; give 0 or more"),
        ({"rate": 0.001, "sparsity": 0.9}, "too many rounds: "),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_line(change: dict[str, Any], told: str) -> None:
    with pytest.raises(OptionError, match=told) as caught:
        plan(tiny(**change))
    assert "\n" not in str(caught.value)


def test_a_criterion_that_needs_images_says_so(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="criterion needs images: fisher; add --images"):
        prune(**vars(tiny(criterion="fisher")), out=tmp_path / "b", device="cpu")
    assert list(tmp_path.iterdir()) == []


def test_the_layers_of_a_bundle_are_chosen_already(tiny_bundle: Path) -> None:
    with pytest.raises(OptionError, match="a bundle's layers are chosen already"):
        plan(tiny(source=str(tiny_bundle), sparsity=0.6, exclude=("layer1.*",)))


def test_a_recipe_gives_every_option_that_was_not_typed() -> None:
    for name, values in PRUNE_RECIPES.items():
        options, _ = prune_options("tiny", name, {"images": "shapes", "lr": 0.5})
        assert options == PruneOptions(**{**values, "source": "tiny", "images": "shapes", "lr": 0.5})


def test_the_paper_s_recipe_is_the_paper_s() -> None:
    """OpenTrans, Alg. 1 and Table 7: p = 10 %, t = 5000, batch 28, learning rate 1e-4, magnitude, text-guided."""
    values = PRUNE_RECIPES["paper"]
    assert (values["criterion"], values["schedule"], values["distill"]) == ("magnitude", "rounds", "text-guided")
    assert (values["rate"], values["steps_per_round"], values["batch_size"], values["lr"]) == (0.1, 5000, 28, 1e-4)


def test_an_unknown_recipe_is_answered_with_the_known_ones() -> None:
    with pytest.raises(OptionError, match="unknown recipe: 'soup'; choose one of paper, fast"):
        prune_options("tiny", "soup", {})
