"""What an adapter learned by heart, with controls and chance."""
