"""SDAM: what a disease discriminator looks at, as maps and masks of a radiograph."""
