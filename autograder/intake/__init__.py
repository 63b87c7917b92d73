"""What was handed in: walking and unpacking it, whose it is, which cells are answers."""
