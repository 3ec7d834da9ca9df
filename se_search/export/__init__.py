"""Export networks in timm's format, with a model card."""
