"""Raw downloads to studies, one layout family a file."""
