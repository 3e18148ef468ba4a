"""What differs between the two stacks, and what keeps their start-up lines off the terminal."""
