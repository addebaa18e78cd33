"""opentrans_cli/steps/analyze"""
