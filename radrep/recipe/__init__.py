"""Recipes: YAML, checked, to frozen sections; the only room with pydantic and yaml."""
