"""What of Ray a training depends on."""
