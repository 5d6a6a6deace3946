"""Raw downloads to prepared folders."""
