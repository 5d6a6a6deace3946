"""What images predict of a study: to select its report, or to edit one that is written."""
