"""A recipe trained several times: with other seeds, with other settings."""
