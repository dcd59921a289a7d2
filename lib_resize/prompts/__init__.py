"""What a prompt or a command line names: the tags of LoRAs, block weights, and the files they mean."""
