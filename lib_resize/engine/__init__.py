"""One LoRA from its file to a smaller one: analysed, planned, written and checked; and many of them."""
