"""The model card: what the Hub reads in it, code that runs, and a stranger's text that stays text."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from safetensors.torch import save_file

from opentrans_cli.bundle.card.licenses import License
from opentrans_cli.bundle.mask_only import write_mask_only
from opentrans_cli.bundle.store import Bundle, add_file, open_bundle
from opentrans_cli.clip.architecture import build_clip, build_visual
from opentrans_cli.clip.layers import join_packed, layer_weights, tensors
from opentrans_cli.clip.source import load_clip
from opentrans_cli.errors import BundleError
from opentrans_cli.files.records import json_bytes
from opentrans_cli.steps.eval.evaluate import evaluate
from opentrans_cli.steps.hub.card import card_files
from opentrans_cli.steps.prune.options import PruneOptions
from opentrans_cli.steps.prune.prune import prune
from opentrans_cli.steps.sources import bundle_tower
from opentrans_cli.steps.step_record import step_record
from opentrans_cli.steps.transfer.open_clip import export_open_clip
from opentrans_cli.steps.transfer.patch import export_patch

PNG = b"\x89PNG\r\n\x1a\n"
VIT = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 1, "layers": 1},
}


def card(bundle: Bundle, *, dense: bool = False, patch: bool = False, revision: str | None = None) -> str:
    terms = License("apache-2.0")
    files = card_files(bundle, repo="org/tiny-half", license=terms, dense=dense, patch=patch, revision=revision)
    return files["README.md"].decode()


def blocks(text: str, language: str = "python") -> list[str]:
    return re.findall(rf"^````{language}\n(.*?)^````$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Executes code of a card beside the bundle, which is what a download gives; returns the names it defined."""

    def execute(code: str, downloaded: Path, **names: Any) -> dict[str, Any]:
        asked: dict[str, Any] = {}

        def snapshot_download(repo: str, revision: str | None = None) -> str:
            asked.update(repo=repo, revision=revision)
            return str(downloaded)

        monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
        monkeypatch.chdir(tmp_path)
        exec(compile(code, "card", "exec"), names)
        return {**names, "asked": asked}

    return execute


Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, tiny_segmentor: Path, run_cli: Any) -> Bundle:
    """The fine-tuned tiny bundle with exponents, and evaluations of it."""

    path = Path(shutil.copytree(tiny_segmentor, tmp_path_factory.mktemp("card") / "bundle"))
    evaluate(str(path), split="val", limit=2, device="cpu")
    assert run_cli("analyze", path, "--quiet").exit_code == 0
    return open_bundle(path)


def test_the_hub_reads_library_task_license_tags_and_every_metric(measured: Bundle) -> None:
    data = ModelCard(card(measured)).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("opentrans", "image-segmentation", "apache-2.0")
    assert {"clip", "pruning", "sparse", "open-vocabulary", "segmentation", "opentrans", "unstructured"} == set(
        data.tags
    )
    assert data.base_model is None  # the embedded model is not on the Hub
    report = json.loads(measured.read("reports/eval-shapes.json"))
    found = {result.metric_name: (result.metric_type, result.metric_value) for result in data.eval_results}
    assert found == {
        "mIoU": ("mean_iou", report["miou"]),
        "mIoU, seen classes": ("mean_iou", report["miou_seen"]),
        "mIoU, unseen classes": ("mean_iou", report["miou_unseen"]),
        "pixel accuracy": ("accuracy", report["pixel_accuracy"]),
    }
    assert {(result.task_type, result.dataset_type) for result in data.eval_results} == {
        ("image-segmentation", "shapes")
    }


def test_the_card_has_a_section_for_all_that_is_known(measured: Bundle) -> None:
    text = card(measured)
    headings = re.findall(r"^##+ (.*)$", text, re.MULTILINE)
    assert headings == [
        "Use", "open_clip", "Plain torch", "Your own model", "Sparsity", "Alpha", "Evaluation",
        "Cost of fine-tuning", "Provenance", "Limits",
    ]  # fmt: skip
    manifest = measured.manifest
    assert f"{manifest.kept:,} of {manifest.total:,}" in text and measured.digest in text
    receipt = json.loads(measured.read("reports/finetune.json"))
    assert f"| {receipt['dense_total'] / 1e9:,.3f} G | 100.0 % |" in text
    assert f"| {receipt['total'] / 1e9:,.3f} G |" in text and manifest.base.digest in text


def test_what_is_not_known_is_not_in_the_card(tiny_bundle: Path) -> None:
    files = card_files(open_bundle(tiny_bundle), repo="org/x", license=License("mit"), dense=False)
    text = files["README.md"].decode()
    assert files.keys() == {"README.md", "card/sparsity.png"}
    assert not {"## Alpha", "## Evaluation", "## Cost of fine-tuning"} & set(text.splitlines())
    assert "model-index" not in text and ModelCard(text).data.eval_results is None


def test_the_same_bundle_gives_the_same_bytes(measured: Bundle, tmp_path: Path) -> None:
    copy = open_bundle(shutil.copytree(measured.path, tmp_path / "elsewhere"))
    one, two = (
        card_files(each, repo="org/x", license=License("mit"), dense=True, revision="v1") for each in (measured, copy)
    )
    assert one == two and one.keys() == {"README.md", "card/sparsity.png", "card/alpha.png"}
    assert all(data.startswith(PNG) for name, data in one.items() if name.endswith(".png"))
    assert set(re.findall(r"!\[.*?\]\((.*?)\)", one["README.md"].decode())) == one.keys() - {"README.md"}


def test_the_base_is_named_where_the_hub_has_it(tiny_bundle: Path, tmp_path: Path) -> None:
    for number, (source, base_model) in enumerate(
        (
            ("RN50-quickgelu:openai", "timm/resnet50_clip.openai"),
            ("RN50-quickgelu", "timm/resnet50_clip.openai"),
            ("hf://org/clip@main", "org/clip"),
            ("hf://org/clip", "org/clip"),
            ("RN50-quickgelu:no-such-tag", None),
            ("no-such-model:openai", None),
            ("hf://org/clip/../x", None),
            ("clips/RN50.pt", None),
        )
    ):
        bundle = altered(tiny_bundle, tmp_path / str(number), lambda text: text["base"].update(source=source))  # noqa: B023
        assert ModelCard(card(bundle)).data.base_model == base_model
    masks = altered(
        masks_of(open_bundle(tiny_bundle), tmp_path), tmp_path, lambda text: text["base"].update(source="RN50")
    )
    assert "open_clip.create_model('RN50', pretrained='openai').visual.state_dict()" in card(masks)


def masks_of(bundle: Bundle, folder: Path) -> Path:
    """The bundle without its values."""
    (folder / "masks").mkdir()
    return write_mask_only(bundle, folder / "masks").path


# Its code.


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_plain_torch_reads_the_tower_bit_for_bit(dtype: str, tmp_path: Path, run: Run) -> None:
    bundle = open_bundle(prune("tiny", sparsity=0.7, dtype=dtype, out=tmp_path / "b", device="cpu").path)
    names = run(blocks(card(bundle, revision="v1"))[1], bundle.path)
    assert names["asked"] == {"repo": "org/tiny-half", "revision": "v1"}
    assert_same(names["state"], tensors(bundle.tower()))
    assert_same(names["masks"], {f"{layer}.weight": torch.from_numpy(mask) for layer, mask in bundle.masks().items()})
    build_visual(bundle.manifest.base.model_cfg, names["state"])


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value) and found[name].dtype == value.dtype, name


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A pruned ViT, of whose packed projections one part is not pruned."""
    root = tmp_path_factory.mktemp("vit")
    (root / "clip").mkdir()
    torch.manual_seed(0)
    save_file(
        {name: value.contiguous() for name, value in build_clip(VIT).state_dict().items()},
        root / "clip" / "open_clip_model.safetensors",
    )
    (root / "clip" / "open_clip_config.json").write_text(json.dumps({"model_cfg": VIT}))
    options = PruneOptions(source=str(root / "clip"), sparsity=0.7, exclude=("*.k_proj",))
    return open_bundle(prune(**vars(options), out=root / "b", device="cpu").path)


def test_plain_torch_packs_the_attention_of_a_vit(vit: Bundle, run: Run) -> None:
    names = run(blocks(card(vit))[1], vit.path)
    assert_same(names["state"], tensors(join_packed(vit.tower())))
    assert names["masks"]["transformer.resblocks.0.attn.in_proj_weight"][64:128].all()


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_plain_torch_applies_masks_alone_to_the_base(
    kind: str, tiny_bundle: Path, vit: Bundle, tmp_path: Path, run: Run
) -> None:
    source = open_bundle(tiny_bundle) if kind == "resnet" else vit
    bundle = open_bundle(masks_of(source, tmp_path))
    text = card(bundle)
    pull = f"opentrans pull org/tiny-half --base {bundle.manifest.base.source} --out subnet"
    assert pull in blocks(text, "bash")[0]
    assert (
        "**Masks alone.**" in text and source.manifest.base.digest in text and "mask-only" in ModelCard(text).data.tags
    )
    assert_same(run(blocks(text)[1], bundle.path)["state"], tensors(join_packed(source.tower())))


def test_figures_of_values_that_were_left_out_are_said_to_be_that(measured: Bundle, tmp_path: Path) -> None:
    masks = open_bundle(masks_of(measured, tmp_path))
    said = f"left out in step {len(masks.manifest.steps)} of the history: figures from before hold for those values"
    assert "## Evaluation" in card(masks) and said in card(masks) and "left out in step" not in card(measured)


def test_open_clip_loads_the_exported_folder_and_the_hub_s_where_it_is_dense(
    tiny_bundle: Path, tmp_path: Path, run: Run
) -> None:
    bundle = open_bundle(tiny_bundle)
    shell, code = blocks(card(bundle), "bash")[1], blocks(card(bundle))[0]
    assert shell == "opentrans transfer subnet --to open-clip --out subnet-open-clip\n"
    export_open_clip(tiny_bundle, out=tmp_path / "subnet-open-clip")
    names = run(code, tiny_bundle)
    assert_same(names["model"].visual.state_dict(), tensors(bundle.tower()))
    own = load_clip("tiny")
    assert torch.equal(names["tokenizer"](["red square"]), own.tokenizer(["red square"]))
    assert torch.equal(
        names["model"].encode_text(names["tokenizer"](["red square"])),
        own.model.encode_text(own.tokenizer(["red square"])),
    )
    dense = blocks(card(bundle, dense=True))[0]
    assert dense == code.replace("local-dir:subnet-open-clip", "hf-hub:org/tiny-half")
    assert "transfer subnet --to open-clip" not in card(bundle, dense=True)


def test_the_code_for_the_sparse_patch_makes_the_subnet_of_the_base(
    tiny_bundle: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    export_patch(tiny_bundle, out=tmp_path / "p.safetensors")

    def hf_hub_download(*where: str, **pinned: str) -> str:
        asked.append((where, pinned))
        return str(tmp_path / "p.safetensors")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", hf_hub_download)
    bundle, model = open_bundle(tiny_bundle), load_clip("tiny").model
    text = card(bundle, patch=True, revision="v1")
    run(next(block for block in blocks(text) if "hf_hub_download" in block), bundle.path, state=model.state_dict())
    assert_same(model.visual.state_dict(), tensors(bundle.tower()))
    assert asked == [(("org/tiny-half", "sparse_patch.safetensors"), {"revision": "v1"})]
    assert "Sparse patch" not in card(bundle)


@pytest.mark.parametrize(
    ("path", "lacks"), [("backbone.clip_model.visual", ()), ("backbone", ("attnpool",)), ("visual", ())]
)
def test_any_model_with_the_tower_takes_the_subnet_and_keeps_its_zeros(
    path: str, lacks: tuple[str, ...], tiny_bundle: Path, vit: Bundle, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names of FC-CLIP, of a detectron2 backbone, which has no attention pool, and of open_clip."""
    bundle, asked = vit if path == "visual" else open_bundle(tiny_bundle), []

    def pulled(source: str, reporter: object) -> Path:
        asked.append(source)
        return bundle.path

    monkeypatch.setattr("opentrans_cli.steps.apply.local_bundle", pulled)
    tower = bundle_tower(bundle).visual
    for part in lacks:
        delattr(tower, part)
    state = {name: value.clone() for name, value in tower.state_dict().items()}
    model = tower
    for name in reversed(path.split(".")):
        inner, model = model, torch.nn.Module()
        model.add_module(name, inner)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for weight in tower.parameters():
        weight.grad = torch.ones_like(weight)
        weight.data += 1
    run(blocks(card(bundle, revision="v1"))[2], bundle.path, model=model, optimizer=optimizer)
    assert asked == ["hf://org/tiny-half@v1"]
    assert all(torch.equal(value, state[name]) for name, value in tower.state_dict().items())
    optimizer.step()
    masks = {layer: mask for layer, mask in bundle.masks().items() if layer.partition(".")[0] not in lacks}
    for layer, weight in layer_weights(tower, masks).items():
        assert not weight.detach().numpy()[~masks[layer]].any(), layer


# Strangers' text.

HOSTILE = (
    "[x](http://evil.org) ![x](http://evil.org/x.png) <script>x</script> http://evil.org www.evil.org",
    "`x` ``[y](http://evil.org)`` ```",
    "a | b |\\| c",
    "# h * _ ~~ &lt; <!-- --> ---",
    '"; rm -rf / "\' #: {x: [',
)


def altered(path: Path, tmp_path: Path, edit: Callable[[dict[str, Any]], Any]) -> Bundle:
    """A copy of a bundle with another manifest."""
    copy = Path(shutil.copytree(path, tmp_path / "altered"))
    document = json.loads((copy / "manifest.json").read_text())
    edit(document)
    (copy / "manifest.json").write_text(json.dumps(document))
    return open_bundle(copy)


@pytest.mark.parametrize("text", HOSTILE)
def test_names_in_manifest_and_reports_make_no_links_no_html_and_no_yaml(
    text: str, measured: Bundle, tmp_path: Path
) -> None:
    def edit(document: dict[str, Any]) -> None:
        document["base"] |= {"source": text, "architecture": text}
        document["segmentor"]["framework"] = "www.evil.org"
        document["steps"][0] |= {"versions": {text: text}, "data": text, "verb": "www.evil.org"}

    bundle = altered(measured.path, tmp_path, edit)
    report = json.loads(bundle.read("reports/eval-shapes.json"))
    report |= {"dataset": text, "framework": text, "environment": {"device": "cpu", "processor": text}}
    step = step_record("eval", {}, seed=None)
    bundle = add_file(bundle, "reports/eval-shapes.json", json_bytes(report), step=step)
    page = card(bundle, revision="v1\n# x")
    assert ModelCard(page).data.eval_results[0].dataset_type == text
    assert outline(page) == outline(card(measured, revision="v1"))
    for code in blocks(page):
        compile(code, "card", "exec")


def outline(page: str) -> list[tuple[str, str]]:
    """Every element of a page but its texts and rows."""
    body = page.split("\n---\n", 1)[1]
    found = MarkdownIt("commonmark").enable("table").parse(body)
    every = [token for outer in found for token in (outer, *(outer.children or ()))]
    assert not any(token.type in ("html_block", "html_inline", "link_open") for token in every)
    plain = " ".join(token.content for token in every if token.type == "text")
    assert "evil" not in plain and "rm -rf" not in plain
    left_out = ("inline", "text", "tr_open", "tr_close", "td_open", "td_close", "code_inline", "softbreak")
    return [(token.type, token.tag) for token in every if token.type not in left_out]


def test_reports_that_follow_no_definition_and_alphas_of_no_layer_are_refused_by_name(
    measured: Bundle, tmp_path: Path
) -> None:
    copy = open_bundle(shutil.copytree(measured.path, tmp_path / "b"))
    good = copy.read("reports/eval-shapes.json")
    for change in ({"miou": "x"}, {"macs": None}, {"dataset": 1}):
        data = json_bytes({**json.loads(good), **change})
        copy = add_file(copy, "reports/eval-shapes.json", data, step=step_record("eval", {}, seed=None))
        with pytest.raises(BundleError, match=r"reports/eval-shapes\.json: not a valid eval report") as caught:
            card(copy)
        assert "\n" not in str(caught.value)
    copy = add_file(copy, "reports/eval-shapes.json", good, step=step_record("eval", {}, seed=None))
    for layers in (["$\\frac$"], ["a b"], [], "a", [1]):
        content = ({"alpha": np.array([2.0])}, {"estimator": "xmin_peak", "layers": layers, "frozen": []})
        copy = add_file(copy, "alpha.safetensors", content, step=step_record("analyze", {}, seed=0))
        with pytest.raises(BundleError, match=r"layers and alphas disagree: alpha\.safetensors"):
            card(copy)
