"""What `analyze` wrote: the alpha of every layer, and which layers are to be frozen."""

from __future__ import annotations

from opentrans_cli.bundle.layout import ALPHA
from opentrans_cli.errors import BundleError
from opentrans_cli.pictures.page import Page
from opentrans_cli.spectral.report import read_alpha_report
from opentrans_cli.steps.report.exhibit import Exhibit
from opentrans_cli.steps.report.sections.facts import plain_facts
from opentrans_cli.steps.report.sections.layers import alpha_table, spectra


def alphas_section(page: Page, exhibit: Exhibit) -> None:
    """The rule, the fit of every layer, and the spectra if alpha.safetensors lies beside the document."""
    page.facts(plain_facts(exhibit.document, without=("layers", "frontier")))
    report = read_alpha_report(exhibit.path)
    page.heading("Layers")
    alpha_table(page, report.layers, report.median)
    beside = exhibit.folder / ALPHA
    if beside.is_file():
        try:
            spectra(page, read_alpha_report(beside).layers)
        except BundleError as error:
            page.note(f"Without spectra: {error}")
