"""opentrans_cli/checkpoints"""
