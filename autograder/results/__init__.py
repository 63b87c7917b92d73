"""From records to what people read: gradebook, report, feedback, tables."""
