#!/usr/bin/env bash
# open_clip builds the weights of OpenAI with GELU where they are asked for by the plain name.
#
# open_clip_torch 3.3.0 (torch 2.14.1, torchvision 0.29.1, timm 1.0.31, huggingface_hub 2.4.0). Its table says for every
# published CLIP whether it was trained with QuickGELU. create_model("RN50", pretrained="openai") builds what the name
# says all the same, with a UserWarning alone; only the name RN50-quickgelu gives the model that was trained. So it is
# for 27 pairs of name and tag: OpenAI's, and some of laion400m, yfcc15m, cc12m, metaclip and dfn. In a ResNet the text
# tower differs, in a ViT the image tower too: features are slightly wrong, and nothing fails. `opentrans` builds what the
# record of the tag says, and says so. The weights used here are random, in the Hub's cache where open_clip looks.
#
# Seen:
#   plain name and tag of QuickGELU weights: 27 pairs
#   RN50:openai           record: QuickGELU built: GELU       warned: True
#   RN50-quickgelu:openai record: QuickGELU built: QuickGELU  warned: False
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torch==2.14.1 torchvision==0.29.1 timm==1.0.31 \
    open_clip_torch==3.3.0 huggingface_hub==2.4.0 safetensors==0.8.0
export HF_HUB_OFFLINE=1 HF_HUB_CACHE="$work/cache"
cat > seen.py <<'PY'
import os
import warnings
from pathlib import Path

import open_clip
from open_clip.pretrained import get_pretrained_cfg, list_pretrained
from safetensors.torch import save_file

differ = [
    (name, tag)
    for name, tag in list_pretrained()
    if get_pretrained_cfg(name, tag).get("quick_gelu") and not open_clip.get_model_config(name).get("quick_gelu")
]
print(f"plain name and tag of QuickGELU weights: {len(differ)} pairs")

repo = Path(os.environ["HF_HUB_CACHE"], "models--timm--resnet50_clip.openai")
snapshot = repo / "snapshots" / ("0" * 40)
snapshot.mkdir(parents=True)
(repo / "refs").mkdir()
(repo / "refs" / "main").write_text(snapshot.name)
save_file(open_clip.create_model("RN50").state_dict(), snapshot / "open_clip_model.safetensors")

for name in ("RN50", "RN50-quickgelu"):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = open_clip.create_model(name, pretrained="openai", require_pretrained=True)
    warned = any("QuickGELU mismatch" in str(warning.message) for warning in caught)
    built = type(model.transformer.resblocks[0].mlp.gelu).__name__
    record = "QuickGELU" if get_pretrained_cfg(name, "openai")["quick_gelu"] else "GELU"
    print(f"{name + ':openai':21} record: {record} built: {built:10} warned: {warned}")
PY
venv/bin/python seen.py | tee seen.txt
diff - seen.txt <<'TXT'
plain name and tag of QuickGELU weights: 27 pairs
RN50:openai           record: QuickGELU built: GELU       warned: True
RN50-quickgelu:openai record: QuickGELU built: QuickGELU  warned: False
TXT
