"""Reports in the forms of other systems: FHIR and DICOM SR."""
