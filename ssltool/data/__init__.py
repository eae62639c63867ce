"""Images: sources, decoding, sampling order and loading, checking and packing."""
