"""opentrans_cli/steps/finetune"""
