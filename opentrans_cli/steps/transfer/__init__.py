"""opentrans_cli/steps/transfer"""
