"""opentrans_cli/steps/estimate"""
