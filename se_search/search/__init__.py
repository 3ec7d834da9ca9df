"""How the search goes: definitions, the space, proposing configurations, the study loop and its results."""
