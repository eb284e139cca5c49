"""From wishes and observations to actions and back: decided purely, done at the edge."""
