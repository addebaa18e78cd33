"""opentrans_cli/files"""
