"""What images predict of a study, to select, edit or compare its reports; rewards of reports."""
