"""What all telescopes have in common."""
