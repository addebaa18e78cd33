"""report: one HTML page of bundles, reports and folders of runs."""
