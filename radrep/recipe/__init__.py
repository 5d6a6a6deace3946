"""Recipes: YAML that says what to do, checked as a whole before anything starts."""
