"""opentrans_cli/bundle/verify"""
