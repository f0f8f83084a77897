"""Methods that train with less memory: what is stored, in how many bits, and what is computed again instead."""
