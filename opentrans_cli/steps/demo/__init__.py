"""opentrans_cli/steps/demo"""
