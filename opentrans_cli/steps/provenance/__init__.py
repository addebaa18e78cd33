"""opentrans_cli/steps/provenance"""
