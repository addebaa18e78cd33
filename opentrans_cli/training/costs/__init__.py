"""opentrans_cli/training/costs"""
