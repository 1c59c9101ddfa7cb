"""The towers: layers, image and text encoders, the tokenizer, and the pair of them."""
