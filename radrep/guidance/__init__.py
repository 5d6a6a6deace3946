"""What is known of a study before its report is written: which reports would fit it."""
