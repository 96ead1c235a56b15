"""From raw files to batches: builders, text processing, the input pipeline. Models come later."""
