"""opentrans_cli/steps/look"""
