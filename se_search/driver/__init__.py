"""The course of a search and of its verification."""
