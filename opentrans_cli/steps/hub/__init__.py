"""push and pull: a bundle on the Hugging Face Hub, with its model card."""
