"""LoRAs in object stores and on other machines: each file is whole or absent, and done once, whoever does the work."""
