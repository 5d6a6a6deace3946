"""SDAM: Grad-CAM maps of a disease discriminator, and masked radiographs."""
