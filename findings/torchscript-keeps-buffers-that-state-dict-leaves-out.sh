#!/usr/bin/env bash
# TorchScript saves the buffers that a module declares with persistent=False.
#
# torch 2.13.0. CLIP's text towers hold their causal mask in such a buffer, so that it stays out of every checkpoint. A
# traced or scripted copy of the module lists it in state_dict() and writes it to the archive; a strict
# load_state_dict() of that archive's tensors into the very module it was made from is refused. So a checkpoint that is
# an archive may hold tensors that no checkpoint of the same model in another form has. `opentrans` leaves them out.
#
# Seen:
#   module  ['proj.bias', 'proj.weight']
#   trace   ['attn_mask', 'proj.bias', 'proj.weight'] strict load refused: attn_mask
#   script  ['attn_mask', 'proj.bias', 'proj.weight'] strict load refused: attn_mask
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.2.6
cat > seen.py <<'PY'
import warnings

import torch

warnings.simplefilter("ignore")


class TextTower(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = torch.nn.Linear(4, 4)
        self.register_buffer("attn_mask", torch.full((4, 4), float("-inf")).triu(1), persistent=False)

    def forward(self, x):
        return (self.proj(x) + self.attn_mask).softmax(-1)


tower = TextTower()
print("module ", sorted(tower.state_dict()))
for kind, scripted in (("trace", torch.jit.trace(tower, torch.zeros(4, 4))), ("script", torch.jit.script(tower))):
    scripted.save("tower.pt")
    state = torch.jit.load("tower.pt").state_dict()
    try:
        TextTower().load_state_dict(state)
        said = "strict load accepted"
    except RuntimeError as error:
        said = f"strict load refused: {str(error).split(chr(34))[1]}"
    print(f"{kind:7} {sorted(state)} {said}")
PY
venv/bin/python seen.py | tee seen.txt
diff - seen.txt <<'TXT'
module  ['proj.bias', 'proj.weight']
trace   ['attn_mask', 'proj.bias', 'proj.weight'] strict load refused: attn_mask
script  ['attn_mask', 'proj.bias', 'proj.weight'] strict load refused: attn_mask
TXT
