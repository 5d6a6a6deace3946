"""Features that frozen encoders make of images, computed once and kept on disk."""
