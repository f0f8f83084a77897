"""What a training step consists of: its matrix products and updates, and the relations of each method beyond plain SGD."""
