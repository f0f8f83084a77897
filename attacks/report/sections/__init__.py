"""The sections of a report: functions from a result to what stands under a heading, empty if there is nothing."""
