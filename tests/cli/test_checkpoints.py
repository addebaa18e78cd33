"""segment and eval with checkpoints as the frameworks' own code saves them, and with words that bring embeddings."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.clip.source import load_clip
from opentrans_cli.datasets.images import read_image
from opentrans_cli.datasets.vocabulary_pack import read_pack
from opentrans_cli.frameworks import FRAMEWORKS
from opentrans_cli.frameworks.base import ClassText
from opentrans_cli.frameworks.keys import to_original
from opentrans_cli.frameworks.original import Original, original_preprocess
from opentrans_cli.frameworks.original_names import FCCLIP_RULES, HAN_RULES
from opentrans_cli.steps.segmentors.segments import write_segment_ids

SMALL = {"queries": 6, "width": 32, "encoder_layers": 1, "decoder_layers": 2}
RULES = {"fcclip": ("FC-CLIP", FCCLIP_RULES), "han": ("Han et al.", HAN_RULES)}
CLASSES = [
    {"name": "grass", "synonyms": ["grass", "lawn"], "seen": True},
    {"name": "sky", "synonyms": [], "seen": False},
    {"name": "red square", "synonyms": ["red square"], "seen": True},
]


def built(framework: str) -> Any:
    torch.manual_seed(0)
    options = {"width": 16} if framework == "deeplabv3" else SMALL
    segmentor = FRAMEWORKS.load(framework).build(load_clip("tiny").model.visual, options).eval()
    if framework == "deeplabv3":
        torch.nn.init.normal_(segmentor.embedding.weight)
    return segmentor


def saved(folder: Path, framework: str, *, text: bool = True) -> Path:
    """A small checkpoint by the names of the framework's own code, or by ours where it reads no words."""
    tensors = dict(built(framework).state_dict())
    if framework in RULES:
        words = load_clip("tiny").model.state_dict() if text else {}
        tensors |= {f"text.{key}": words[key] for key in words if not key.startswith(("visual.", "logit_scale"))}
        tensors = to_original(tensors, RULES[framework][1])
    path = folder / f"{framework}.pth"
    torch.save({"model": tensors}, path)
    return path


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    rows = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float16)
    path = tmp_path / "pack.safetensors"
    save_file({"embeddings": rows}, path, metadata={"opentrans": json.dumps({"classes": CLASSES})})
    return path


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (50, 77, 3), dtype=np.uint8)).save(path)
    return path


@pytest.mark.parametrize("framework", ["fcclip", "han", "mask2former", "deeplabv3"])
def test_scores_are_those_of_the_network_at_the_size_of_the_picture(
    framework: str, run_cli: Any, tmp_path: Path, pack: Path, picture: Path
) -> None:
    line = ("--framework", framework, "--checkpoint", saved(tmp_path, framework), "--vocabulary", pack, "--no-resize")
    out = tmp_path / "scores.npy"
    result = run_cli("segment", *line, "--save-scores", out, picture)
    assert (result.exit_code, result.stdout) == (0, f"{out}\n"), result.stderr
    scores = np.load(out)
    given = read_pack(pack)
    text = ClassText(torch.from_numpy(given.embeddings), given.class_indices, (True, False, True))
    lineage = RULES[framework][0] if framework in RULES else "ours"
    pixels = original_preprocess(Original(framework, lineage, {}, {}, {}, {}))
    with torch.no_grad():
        wanted = built(framework)(pixels.normalise(torch.from_numpy(read_image(picture))[None]), text)[0]
    assert scores.dtype == np.float32 and scores.shape == (3, 50, 77)
    np.testing.assert_allclose(scores, wanted.numpy(), rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def test_words_read_by_the_checkpoint_and_packed_by_it_give_the_same(
    run_cli: Any, tmp_path: Path, desk: Path, picture: Path
) -> None:
    common = ("--framework", "fcclip", "--checkpoint", saved(tmp_path, "fcclip"))
    words = tmp_path / "classes.txt"
    words.write_text("0:invalid_class_id\n1:grass,lawn\n4:sky\n9:spaceship\n")
    made = run_cli("segment", *common, "--vocabulary", words, "--save-vocabulary", desk / "p.safetensors")
    assert (made.exit_code, made.stdout) == (0, f"{desk / 'p.safetensors'}\n"), made.stderr
    assert [packed.seen for packed in read_pack(desk / "p.safetensors").classes] == [True, True, False]
    for name, vocabulary in {"a": words, "b": desk / "p.safetensors"}.items():
        line = ("--vocabulary", vocabulary, "--no-resize", "--save-scores", desk / f"{name}.npy", picture)
        assert run_cli("segment", *common, *line).exit_code == 0
    np.testing.assert_allclose(np.load(desk / "a.npy"), np.load(desk / "b.npy"), atol=1e-5)


def test_a_class_file_says_what_training_labelled(run_cli: Any, desk: Path) -> None:
    (desk / "seen.txt").write_text("car\nspaceship\n")
    run_cli(
        "segment",
        "tiny",
        "-w",
        "sky,spaceship",
        "--seen",
        desk / "seen.txt",
        "--save-vocabulary",
        desk / "p.safetensors",
    )
    assert [packed.seen for packed in read_pack(desk / "p.safetensors").classes] == [False, True]


def test_without_a_text_tower_a_pack_will_do_and_words_need_a_base(
    run_cli: Any, refused: Callable[..., str], tmp_path: Path, desk: Path, pack: Path, picture: Path
) -> None:
    line = ("segment", "--framework", "han", "--checkpoint", saved(tmp_path, "han", text=False), "--no-resize", picture)
    assert run_cli(*line, "--vocabulary", pack, "--save-scores", tmp_path / "a.npy").exit_code == 0
    assert "no text tower" in refused(*line, "-w", "sky, grass", "--save-scores", desk / "b.npy")
    assert run_cli(*line, "-w", "sky, grass", "--base", "tiny", "--save-scores", tmp_path / "c.npy").exit_code == 0


def test_pictures_are_looked_at_in_the_size_of_the_tests_unless_told_otherwise(
    run_cli: Any, tmp_path: Path, pack: Path, picture: Path
) -> None:
    line = ("segment", "--framework", "han", "--checkpoint", saved(tmp_path, "han"), "--vocabulary", pack, picture)
    for name, more in {"large": (), "own": ("--no-resize",)}.items():
        result = run_cli(*line, *more, "--save-scores", tmp_path / f"{name}.npy")
        assert result.exit_code == 0, result.stderr
    large, own = np.load(tmp_path / "large.npy"), np.load(tmp_path / "own.npy")
    assert large.shape == own.shape == (3, 50, 77) and not np.allclose(large, own, rtol=1e-3)


def coco_ids(path: Path) -> np.ndarray:
    """The ids in a panoptic PNG of COCO, by their definition."""
    with Image.open(path) as image:
        assert image.mode == "RGB"
        return np.asarray(image).astype(np.int64) @ [1, 256, 65536]


def test_ids_of_segments_are_the_colours_of_coco(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 255], [256, 65535, 65536], [2**24 - 1, 70000, 3]])
    write_segment_ids(tmp_path / "a.png", ids)
    assert np.array_equal(coco_ids(tmp_path / "a.png"), ids)


def test_objects_and_segments_stand_beside_the_label_map(
    run_cli: Any, tmp_path: Path, desk: Path, pack: Path, picture: Path
) -> None:
    common = ("segment", "--framework", "fcclip", "--checkpoint", saved(tmp_path, "fcclip"), "--vocabulary", pack)
    for task in ("instance", "panoptic"):
        line = (*common, "--no-resize", picture, "--task", task, "--stuff", "sky", "-o", desk / task, "--json")
        document = json.loads(run_cli(*line).stdout)
        check_document(document, "segment_report")
        (entry,) = document["images"]
        if task == "instance":
            assert entry["instances"]
            for found in entry["instances"]:
                assert found["class"] != "sky" and 0 < found["score"] <= 1
                assert found["mask"]["size"] == [50, 77] and sum(found["mask"]["counts"]) == 50 * 77
                assert sum(found["mask"]["counts"][1::2]) == found["area"]
        else:
            ids = coco_ids(desk / task / entry["panoptic"])
            assert ids.shape == (50, 77) and set(np.unique(ids)) - {0} == {part["id"] for part in entry["segments"]}
            assert all(int((ids == part["id"]).sum()) == part["area"] for part in entry["segments"])
            assert all(part["thing"] == (part["class"] != "sky") for part in entry["segments"])
            written = json.loads((desk / task / "panoptic.json").read_text())
            (annotation,), kinds = written["annotations"], {kind["id"]: kind for kind in written["categories"]}
            assert annotation["file_name"] == entry["panoptic"] and written["images"][0]["id"] == annotation["image_id"]
            for part, told in zip(annotation["segments_info"], entry["segments"], strict=True):
                assert part["id"] == told["id"] and kinds[part["category_id"]]["name"] == told["class"]
                assert kinds[part["category_id"]]["isthing"] == told["thing"] and part["iscrowd"] == 0
                rows, columns = np.nonzero(ids == part["id"])
                x, y, width, height = part["bbox"]
                assert (x, y) == (columns.min(), rows.min()) and part["area"] == len(rows)
                assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)
        assert run_cli(*line, "--force").exit_code == 0


def test_what_cannot_be_is_refused_in_one_line(
    refused: Callable[..., str], tmp_path: Path, desk: Path, pack: Path, picture: Path
) -> None:
    checkpoint, scores = saved(tmp_path, "han"), ("--save-scores", desk / "s.npy")
    common = ("segment", "--framework", "han", "--checkpoint", checkpoint, "--vocabulary", pack)
    twice = tmp_path / "other.png"
    twice.write_bytes(picture.read_bytes())
    assert "with 2 images" in refused(*common, picture, twice, *scores, code=2)
    assert "none is named" in refused(*common, *scores, code=2)
    assert "nowhere to write" in refused(*common, picture, code=2)
    assert "whose checkpoint" in refused("segment", *common[3:], picture, *scores, code=2)
    assert "it is one of han" in refused("segment", "--framework", "fcclip", *common[3:], picture, *scores)
    assert "unknown framework" in refused("segment", "--framework", "nothing", *common[3:], picture, *scores, code=2)
    assert "no trained han in the source" in refused(
        "segment", "tiny", picture, "--framework", "han", "--vocabulary", pack, *scores, code=2
    )
    assert "no source is named" in refused("segment", "--vocabulary", pack, *scores, code=2)
    assert "not a class of the vocabulary" in refused(*common, picture, *scores, "--stuff", "tree")
    assert "finds no objects" in refused(
        "segment", "tiny", picture, "--vocabulary", pack, "--task", "panoptic", "-o", desk / "s", code=2
    )
    assert "leave images" in refused(*common, picture, "--save-vocabulary", desk / "p.safetensors", code=2)
    assert "end in .safetensors" in refused("segment", "tiny", "-w", "a", "--save-vocabulary", desk / "p", code=2)


def test_embeddings_of_another_length_are_refused_with_both(
    refused: Callable[..., str], tmp_path: Path, desk: Path, picture: Path
) -> None:
    wide = tmp_path / "wide.safetensors"
    metadata = {"opentrans": json.dumps({"classes": CLASSES})}
    save_file({"embeddings": np.eye(4, 1024, dtype=np.float32)}, wide, metadata=metadata)
    message = refused("segment", "tiny", picture, "--vocabulary", wide, "--save-scores", desk / "s.npy")
    assert "length 1024, the segmentor wants 64" in message


def test_opentrans_own_deeplabv3_is_refused_for_what_it_is(
    refused: Callable[..., str], tmp_path: Path, desk: Path, pack: Path, picture: Path
) -> None:
    torch.save({"aspp.aspp1.atrous_conv.weight": torch.zeros(4, 8, 1, 1)}, tmp_path / "official.pth")
    line = ("--framework", "deeplabv3", "--checkpoint", tmp_path / "official.pth", "--vocabulary", pack, picture)
    assert "another network than ours" in refused("segment", *line, "--save-scores", desk / "s.npy")


def test_a_checkpoint_is_scored_named_and_left_alone(run_cli: Any, tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, "fcclip")
    tensors = torch.load(checkpoint, weights_only=True)["model"]
    pruned = tensors["backbone.clip_model.visual.layer4.0.conv2.weight"]
    pruned[1:] = 0
    torch.save({"model": tensors}, checkpoint)
    before = checkpoint.read_bytes()
    line = ("eval", "--framework", "fcclip", "--checkpoint", checkpoint, "--limit", 2, "--no-resize", "--json")
    document = json.loads(run_cli(*line).stdout)
    check_document(document, "eval_report")
    assert document["framework"] == "fcclip" and document["checkpoint"]["file"] == "fcclip.pth"
    assert len(document["checkpoint"]["sha256"]) == 64 and checkpoint.read_bytes() == before
    assert document["params_dense"] - document["params_kept"] == pruned[1:].numel()
    assert document["macs"] > document["macs_kept"] > 0
    assert {row["name"]: row["seen"] for row in document["per_class"]}["grass"] is True


def test_eval_refuses_a_vocabulary_of_another_length_and_two_segmentors(
    refused: Callable[..., str], tmp_path: Path, pack: Path
) -> None:
    assert "pack.safetensors has 3 classes, the data set has 70" in refused("eval", "tiny", "--vocabulary", pack)
    assert "exactly one of the two" in refused("eval", "tiny", "--framework", "han", "--checkpoint", pack, code=2)
    assert "exactly one of the two" in refused("eval", code=2)
    assert "a curve is of a bundle" in refused("eval", "tiny", "--curve", "--vocabulary", pack, code=2)


@pytest.mark.slow
@pytest.mark.parametrize(("framework", "keys"), [("fcclip", "fcclip_r50_full"), ("han", "han_r50_eval")])
def test_published_networks_give_their_published_scores(
    framework: str, keys: str, run_cli: Any, reference: Path, tmp_path: Path
) -> None:
    """All parity vectors there are for the framework; those of the original modules, see their README."""
    fill = runpy.run_path(str(reference / "parity" / "weights.py"))["fill"]
    shapes: dict[str, list[int]] = json.loads((reference / f"{keys}.json").read_text())
    vectors = sorted((reference / "parity").glob(f"{framework}_*.npz"))
    assert vectors
    for vector in vectors:
        with np.load(vector) as opened:
            given = dict(opened)
        seed, classes = int(given["seed"]), given["sem_seg"].shape[0]
        tensors = {k: torch.from_numpy(fill(k, tuple(s), seed)) for k, s in shapes.items() if "empty_weight" not in k}
        torch.save({"model": tensors}, tmp_path / "original.pth")
        counts = given["synonym_counts"] if "synonym_counts" in given else [1] * classes
        seen = given["seen"] if "seen" in given else [1] * classes
        described = [
            {"name": f"class {i}", "synonyms": [f"{i} {j}" for j in range(count)], "seen": bool(flag)}
            for i, (count, flag) in enumerate(zip(counts, seen, strict=True))
        ]
        metadata = {"opentrans": json.dumps({"classes": described})}
        save_file({"embeddings": given["text_embeddings"]}, tmp_path / "pack.safetensors", metadata=metadata)
        Image.fromarray(given["image"].transpose(1, 2, 0)).save(tmp_path / "image.png")
        line = ("--framework", framework, "--checkpoint", tmp_path / "original.pth")
        more = ("--vocabulary", tmp_path / "pack.safetensors", "--no-resize", "--save-scores", tmp_path / "scores.npy")
        result = run_cli("segment", *line, *more, tmp_path / "image.png", "--force")
        assert result.exit_code == 0, result.stderr
        scores, wanted = np.load(tmp_path / "scores.npy"), given["sem_seg"]
        assert scores.dtype == np.float32 and scores.shape == wanted.shape
        assert np.abs(scores - wanted).max() / np.abs(wanted).max() < 1e-4
