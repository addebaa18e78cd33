"""opentrans_cli/steps/eval"""
