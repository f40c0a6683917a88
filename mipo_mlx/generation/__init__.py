"""From contexts and prompts to preference pairs."""
