"""opentrans_cli/steps/hub"""
