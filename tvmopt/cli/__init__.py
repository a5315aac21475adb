"""The command line: flags to one API call, no decisions."""
