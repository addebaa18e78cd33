"""A section of a page for each kind of document of `artifacts.schema.json`: one file, and one line in `SECTIONS`.

A section is a function of the page and the exhibit; it writes below the heading that stands there. Kinds without a line
are told by `facts`, as the table of their fields.
"""

from opentrans_cli.catalog import Catalog

_HERE = "opentrans_cli.steps.report.sections"

SECTIONS = Catalog(
    "kind of document",
    {
        "manifest": f"{_HERE}.bundle:bundle_section",
        "analyze_report": f"{_HERE}.alphas:alphas_section",
        "eval_report": f"{_HERE}.scores:scores_section",
        "semantic_predictions_report": f"{_HERE}.predictions:semantic_section",
        "panoptic_predictions_report": f"{_HERE}.predictions:panoptic_section",
        "instance_predictions_report": f"{_HERE}.predictions:instance_section",
        "score_table": f"{_HERE}.comparison:comparison_section",
        "curve_report": f"{_HERE}.curve:curve_section",
        "prune_report": f"{_HERE}.pruning:pruning_section",
        "run_log_line": f"{_HERE}.training:training_section",
        "cost_receipt": f"{_HERE}.cost:cost_section",
        "finetune_estimate": f"{_HERE}.cost:estimate_section",
        "segment_report": f"{_HERE}.segmented:segmented_section",
        "check_report": f"{_HERE}.checked:checked_section",
        "demo_report": f"{_HERE}.demo:demo_section",
    },
)
"""By kind of document the function that tells it."""

TITLES = {
    "manifest": "Bundle",
    "analyze_report": "Alphas",
    "eval_report": "Scores",
    "semantic_predictions_report": "Scores of predicted label maps",
    "panoptic_predictions_report": "Scores of predicted segments",
    "instance_predictions_report": "Scores of predicted objects",
    "score_table": "Segmentors compared",
    "curve_report": "Accuracy and size by sparsity",
    "prune_report": "Pruning",
    "run_log_line": "Training",
    "cost_receipt": "Cost of the training",
    "finetune_estimate": "Estimate of a training",
    "transfer_receipt": "Transfer",
    "import_report": "Import",
    "segment_report": "Labelled pictures",
    "check_report": "Check of the data",
    "demo_report": "Demo",
}
"""Headings; other kinds have the title of their definition."""
