"""What is kept of a crop is a function of the crop alone, and a folder is believed only as far as it can be checked."""

from __future__ import annotations

import copy
import os
import shutil
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from opentrans_cli.clip.architecture import build_clip
from opentrans_cli.clip.features import set_output_stride
from opentrans_cli.clip.prefix import modules_until, outputs, replay
from opentrans_cli.errors import OptionError, TrainingError
from opentrans_cli.frameworks import FRAMEWORKS
from opentrans_cli.frameworks.base import ClassText
from opentrans_cli.training.feature_cache import FEATURES, IDENTITY, INDEX, FeatureCache, remove_cache
from opentrans_cli.training.freezing import freeze_modules

CROP, ROWS, END = 64, 6, "layer2.0"
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 16, "patch_size": None},
    "text_cfg": {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 1, "layers": 1},
}
TEXT = ClassText.one_each(F.normalize(torch.randn(3, 16, generator=torch.Generator().manual_seed(3)), dim=1))


def tower() -> nn.Module:
    torch.manual_seed(0)
    visual = build_clip(TINY).visual
    for module in visual.modules():
        if isinstance(module, nn.BatchNorm2d):  # open_clip starts with zeros in bn3
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return visual.to(memory_format=torch.channels_last)


@pytest.fixture(scope="module")
def visual() -> nn.Module:
    return tower()


def crops(rows=range(ROWS)) -> torch.Tensor:
    return torch.stack([torch.randn(3, CROP, CROP, generator=torch.Generator().manual_seed(row)) for row in rows])


def cache(folder, visual, **changes) -> FeatureCache:
    given = {"crop": CROP, "rows": ROWS, "identity": {"data": "a"}, "device": torch.device("cpu"), **changes}
    return FeatureCache(folder, visual, given.pop("end", END), **given)


def ask(folder, visual, rows, images=None):
    with cache(folder, visual) as kept:
        found = kept.features(crops(rows) if images is None else images, torch.tensor(rows))
        return found, kept.hits, kept.misses


def equal(first, second) -> bool:
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_features_are_the_outputs_of_the_prefix_for_each_crop_alone(tmp_path, visual):
    found, _, misses = ask(tmp_path / "cache", visual, [4, 0, 2])
    frozen = copy.deepcopy(visual).eval()
    with torch.no_grad():
        alone = [outputs(frozen, crops([row]), END) for row in (4, 0, 2)]
    assert equal(found, [torch.cat(parts) for parts in zip(*alone, strict=True)])
    assert misses == 3
    assert all(feature.is_contiguous(memory_format=torch.channels_last) for feature in found)


def test_what_is_stored_does_not_depend_on_the_batch_or_the_order(tmp_path, visual):
    for name, batches in {"one": [[5, 1, 3, 0, 2, 4]], "two": [[0, 1], [2], [3, 4, 5]]}.items():
        for rows in batches:
            ask(tmp_path / name, visual, rows)
    for file in (FEATURES, INDEX, IDENTITY):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_second_run_reads_everything_and_needs_no_images(tmp_path, visual):
    first, _, _ = ask(tmp_path / "cache", visual, [3, 1, 3])
    again, hits, misses = ask(tmp_path / "cache", visual, [3, 1, 3], images=torch.full((3, 3, CROP, CROP), torch.nan))
    assert equal(first, again)
    assert (hits, misses) == (3, 0)


def test_computed_counts_the_rows_that_are_filled(tmp_path, visual):
    with cache(tmp_path / "cache", visual) as kept:
        assert kept.computed == 0
        kept.features(crops([5, 2, 5]), torch.tensor([5, 2, 5]))
        assert kept.computed == kept.misses == 2
        assert kept.hits == 1
        assert (tmp_path / "cache" / FEATURES).stat().st_size + (tmp_path / "cache" / INDEX).stat().st_size == (
            kept.needed_bytes
        )


def test_features_are_float32_under_any_precision_of_training(tmp_path, visual):
    plain, _, _ = ask(tmp_path / "plain", visual, [0, 1])
    with torch.autocast("cpu", torch.bfloat16):
        mixed, _, _ = ask(tmp_path / "mixed", visual, [0, 1])
    assert equal(plain, mixed)


def test_the_mode_of_the_tower_and_what_it_replays_do_not_matter(tmp_path, visual):
    plain, _, _ = ask(tmp_path / "plain", visual, [0, 1])
    busy = copy.deepcopy(visual).train()
    with cache(tmp_path / "busy", busy) as kept, replay(busy, END, plain):
        found = kept.features(crops([0, 1]), torch.tensor([0, 1]))
    assert equal(found, plain)
    assert all(module.training for module in busy.modules())


def test_a_cache_holds_no_weight_twice(tmp_path, visual):
    with cache(tmp_path / "cache", visual) as kept:
        own = {tensor.data_ptr() for tensor in kept._backbone.state_dict().values()}
        of_prefix = {
            tensor.data_ptr()
            for name in modules_until(visual, END)
            for tensor in visual.get_submodule(name).state_dict().values()
        }
        assert own == of_prefix


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: flip(folder / FEATURES, 10),
        lambda folder: os.truncate(folder / FEATURES, 100),
        lambda folder: flip(folder / INDEX, 4),
        lambda folder: os.truncate(folder / INDEX, 5),
        lambda folder: (folder / INDEX).unlink(),
    ],
)
def test_entries_torn_by_a_kill_are_computed_again(tmp_path, visual, damage):
    first, _, _ = ask(tmp_path / "cache", visual, [0])
    damage(tmp_path / "cache")
    again, hits, misses = ask(tmp_path / "cache", visual, [0])
    assert equal(first, again)
    assert (hits, misses) == (0, 1)
    assert ask(tmp_path / "cache", visual, [0])[1:] == (1, 0)


def test_a_removal_that_was_interrupted_leaves_a_cache_that_is_used_again(tmp_path, visual, monkeypatch):
    first, _, _ = ask(tmp_path / "cache", visual, [0])
    remove, left = os.unlink, 0

    def unlink(*arguments, **more):
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        remove(*arguments, **more)

    monkeypatch.setattr(os, "unlink", unlink)
    for files in (1, 2):
        left = files
        with pytest.raises(KeyboardInterrupt):
            remove_cache(tmp_path / "cache")
        assert len(os.listdir(tmp_path / "cache")) == 3 - files
        again, hits, misses = ask(tmp_path / "cache", visual, [0])
        assert equal(first, again) and (hits, misses) == (0, 1)
    left = 3
    remove_cache(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_a_folder_of_other_features_is_refused_and_left_as_it_is(tmp_path, visual):
    ask(tmp_path / "cache", visual, [0])
    before = {path.name: path.read_bytes() for path in (tmp_path / "cache").iterdir()}
    moved, dilated = copy.deepcopy(visual), copy.deepcopy(visual)
    with torch.no_grad():
        moved.bn1.running_mean[0] += 1
    dilated.layer2[0].conv2.dilation = dilated.layer2[0].conv2.padding = (2, 2)
    cases = {
        "prefix": partial(cache, visual=moved),
        "shaping": partial(cache, visual=dilated),
        "pixels": partial(cache, visual=visual, identity={"data": "b"}),
        "rows": partial(cache, visual=visual, rows=7),
        "end": partial(cache, visual=visual, end="layer1.0"),
    }
    for what, open_other in cases.items():
        with pytest.raises(OptionError, match=rf"features of another run: .* differs in .*{what}.*; remove it"):
            open_other(tmp_path / "cache")
    assert {path.name: path.read_bytes() for path in (tmp_path / "cache").iterdir()} == before


def test_what_lies_above_the_prefix_is_free_to_differ(tmp_path, visual):
    ask(tmp_path / "cache", visual, [0])
    other = copy.deepcopy(visual)
    set_output_stride(other, 8)
    nn.init.normal_(other.layer4[0].conv1.weight)
    assert ask(tmp_path / "cache", other, [0])[1:] == (1, 0)


def test_a_folder_with_other_things_and_an_unreadable_cache_are_refused(tmp_path, visual):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OptionError, match=r"not a cache of features: .* has other files; name a new folder"):
        cache(tmp_path, visual)
    assert os.listdir(tmp_path) == ["notes.txt"]
    ask(tmp_path / "cache", visual, [0])
    for text in ("{", "[]", '{"end": "stem"}'):
        (tmp_path / "cache" / IDENTITY).write_text(text)
        with pytest.raises(OptionError, match=r"not a cache of features of this version: .*cache\.json"):
            cache(tmp_path / "cache", visual)


def test_too_small_a_disk_is_refused_with_the_bytes_it_would_take(tmp_path, visual, monkeypatch):
    with cache(tmp_path / "small", visual) as kept:
        needed = kept.needed_bytes
        assert needed == ROWS * (4 * (64 * 16 * 16 + 128 * 8 * 8) + 8)
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(needed - 1))
    with pytest.raises(OptionError, match=r"features of 6 crops need 0\.00 GB more: 0\.00 GB are free in .*cache"):
        cache(tmp_path / "cache", visual)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(needed))
    ask(tmp_path / "cache", visual, list(range(ROWS)))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(0))
    assert ask(tmp_path / "cache", visual, [1])[1:] == (1, 0)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the disk that is always full is Linux's")
def test_a_disk_that_fills_up_is_one_line_and_leaves_the_rest_readable(tmp_path, visual):
    first, _, _ = ask(tmp_path / "cache", visual, [0])
    aside = shutil.move(tmp_path / "cache" / FEATURES, tmp_path / "aside")
    (tmp_path / "cache" / FEATURES).symlink_to("/dev/full")
    with pytest.raises(TrainingError, match=r"cannot keep the features: .*cache.*, No space left on device; check"):
        ask(tmp_path / "cache", visual, [1])
    (tmp_path / "cache" / FEATURES).unlink()
    shutil.move(aside, tmp_path / "cache" / FEATURES)
    again, hits, _ = ask(tmp_path / "cache", visual, [0])
    assert equal(first, again) and hits == 1


def test_a_write_that_takes_only_a_part_goes_on_with_the_rest(tmp_path, visual, monkeypatch):
    whole, _, _ = ask(tmp_path / "whole", visual, [0, 1])
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, content, offset: write(file, bytes(content[:1000]), offset))
    parts, _, _ = ask(tmp_path / "parts", visual, [0, 1])
    assert equal(whole, parts)
    assert (tmp_path / "whole" / FEATURES).read_bytes() == (tmp_path / "parts" / FEATURES).read_bytes()


def test_several_may_fill_a_folder_at_the_same_time(tmp_path, visual):
    """Each with files of its own, as processes have; here threads, which start sooner."""
    orders = ([0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [3, 4, 5, 0, 1, 2])
    with ThreadPoolExecutor(len(orders)) as pool:
        results = list(pool.map(lambda order: ask(tmp_path / "shared", copy.deepcopy(visual), order), orders))
    alone, _, _ = ask(tmp_path / "alone", visual, orders[0])
    for order, (found, _, _) in zip(orders, results, strict=True):
        places = torch.tensor(order)
        assert equal(found, [feature[places] for feature in alone])
    assert ask(tmp_path / "shared", visual, orders[0])[1:] == (6, 0)
    for file in (FEATURES, INDEX, IDENTITY):
        assert (tmp_path / "shared" / file).read_bytes() == (tmp_path / "alone" / file).read_bytes()


def train(visual, folder) -> dict[str, torch.Tensor]:
    """Six steps of deeplabv3 above a frozen prefix, with a cache if there is a folder."""
    torch.manual_seed(1)
    module = FRAMEWORKS.load("deeplabv3").build(copy.deepcopy(visual), {"width": 32, "dropout": 0.0}).train()
    backbone = module.backbone
    freeze_modules(backbone, modules_until(backbone, END))
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
    kept = cache(folder, backbone) if folder else None
    for step in range(6):
        rows = torch.tensor([(2 * step) % ROWS, (2 * step + 1) % ROWS])
        images, labels = crops(rows.tolist()), rows[:, None, None].expand(-1, CROP, CROP) % 3
        if kept is None:
            scores = module(images, TEXT)
        else:
            with replay(backbone, END, kept.features(images, rows)):
                scores = module(images, TEXT)
        optimizer.zero_grad()
        F.cross_entropy(scores, labels).backward()
        optimizer.step()
    if kept is not None:
        kept.close()
    return module.state_dict()


def test_training_with_a_cold_and_a_warm_cache_ends_with_the_same_bits_and_near_training_without(tmp_path, visual):
    plain, cold, warm = (train(visual, folder) for folder in (None, tmp_path / "cache", tmp_path / "cache"))
    assert all(torch.equal(cold[name], warm[name]) for name in cold)
    start = visual.state_dict()
    for name in (f"layer{stage}.0.conv{number}.weight" for stage in (3, 4) for number in (1, 2, 3)):
        moved = torch.linalg.norm(plain[f"backbone.{name}"] - start[name])
        assert torch.linalg.norm(plain[f"backbone.{name}"] - cold[f"backbone.{name}"]) < 0.01 * moved
    assert all(
        torch.equal(cold[f"backbone.{name}.weight"], start[f"{name}.weight"]) for name in modules_until(visual, END)
    )
