"""How many labels an image classifier needs, and what unlabelled images can replace."""
