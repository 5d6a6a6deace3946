"""IU X-Ray in each of its distributions."""
