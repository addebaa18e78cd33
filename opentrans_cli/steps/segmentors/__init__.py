"""opentrans_cli/steps/segmentors"""
