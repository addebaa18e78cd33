"""opentrans_cli/bundle/hub"""
