"""From encoded files or pixels to what the network sees: preprocessing and augmentation."""
