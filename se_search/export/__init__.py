"""What a person takes away: networks in timm's own format."""
