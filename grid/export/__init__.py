"""A cell's winner as a folder to use and to share."""
