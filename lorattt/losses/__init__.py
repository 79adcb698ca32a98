"""Pure losses: one value per episode, never reduced over episodes."""
