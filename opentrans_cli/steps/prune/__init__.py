"""opentrans_cli/steps/prune"""
