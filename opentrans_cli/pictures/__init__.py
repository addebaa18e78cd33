"""Pictures for people: overlays, grids, charts. Arrays and plain numbers in, PNG out; no model, no torch.

palette.py   colours of classes
legend.py    which classes a label map shows, and the panel that names them
overlay.py   one image under its label map
overview.py  many images side by side
charts.py    kept weights and alphas by layer
"""
