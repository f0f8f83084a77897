"""A ReCIT-style attack: a base poisoned with personal notes, a token filter, pairing into records, values asked for."""
