#!/usr/bin/env bash
# transformers 4 loads a CLIPVisionModel that transformers 5 saved, without an error, with none of its weights.
#
# transformers 5.24.0 and 4.57.6 with torch 2.13.0. Since 5.6 the tensors of CLIPVisionModel (and of CLIPTextModel and
# SiglipVisionModel) are saved without the prefix `vision_model.`. from_pretrained of an older release finds no tensor by
# the names it expects, sets all of them at random and logs a warning; the folder looks the same. The other way round
# works: 5 takes the prefix off. `opentrans` reads both, and `transfer` into such a file says which releases read it.
#
# Seen:
#   saved by 5.24.0: embeddings.class_embedding
#   read by 5.24.0: no error, 0 tensors missing, weights are the saved ones
#   read by 4.57.6: no error, 23 tensors missing, weights are others
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.2.6 transformers==5.24.0
python3 -m venv older
echo "$work"/venv/lib/python3*/site-packages > "$(echo older/lib/python3*/site-packages)/torch.pth"
older/bin/pip install --quiet --disable-pip-version-check transformers==4.57.6 huggingface_hub==0.36.0 --no-deps
older/bin/pip install --quiet --disable-pip-version-check tokenizers==0.22.1 requests==2.32.5 numpy==2.2.6 \
    "huggingface_hub==0.36.0"
cat > save.py <<'PY'
import torch
import transformers
from safetensors.torch import load_file

torch.manual_seed(0)
sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
config = transformers.CLIPVisionConfig(**sizes, image_size=8, patch_size=4)
transformers.CLIPVisionModel(config).save_pretrained("saved")
print(f"saved by {transformers.__version__}: {sorted(load_file('saved/model.safetensors'))[0]}")
PY
cat > read.py <<'PY'
import torch
import transformers
from safetensors.torch import load_file

model, told = transformers.CLIPVisionModel.from_pretrained("saved", output_loading_info=True)
saved = load_file("saved/model.safetensors")
own = {name.removeprefix("vision_model."): tensor for name, tensor in model.state_dict().items()}
same = all(torch.equal(own[name], tensor) for name, tensor in saved.items())
weights = "weights are the saved ones" if same else "weights are others"
print(f"read by {transformers.__version__}: no error, {len(told['missing_keys'])} tensors missing, {weights}")
PY
export HF_HUB_OFFLINE=1
{ venv/bin/python save.py; venv/bin/python read.py; older/bin/python read.py; } 2>messages.txt | tee seen.txt
diff - seen.txt <<'TXT'
saved by 5.24.0: embeddings.class_embedding
read by 5.24.0: no error, 0 tensors missing, weights are the saved ones
read by 4.57.6: no error, 23 tensors missing, weights are others
TXT
