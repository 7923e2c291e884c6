"""Heavy work in processes of their own, each with its share of the memory, repeated with less."""
