"""opentrans_cli/bundle/card"""
