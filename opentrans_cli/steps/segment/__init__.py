"""opentrans_cli/steps/segment"""
