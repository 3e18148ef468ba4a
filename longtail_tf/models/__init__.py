"""Networks: backbones, neck, head classifier, and the model that trains two streams."""
