"""Overlays, grids and charts: they take arrays and plain numbers and give PNG, SVG or HTML, without a model or torch.

palette.py        colours of classes
legend.py         which classes a label map shows, and the panel that names them
overlay.py        one image under its label map, with words
overview.py       many images side by side
contact_sheet.py  a photo of each of several data sets, beside its label map
charts.py         kept weights and alphas by layer
esd.py            spectra on log-log axes, with the fitted tail
tower_page.py     alphas and spectra of a whole tower on one page
curve.py          accuracy and size against sparsity
page.py           one HTML file of text, tables, charts and pictures
svg_lines.py      lines over a number, for a page
svg_spectrum.py   the spectrum of a layer, for a page
thumbnail.py      small copies of pictures, for a page
gallery.py        a page of labelled pictures
"""
