"""opentrans_cli/training/processes"""
