"""How a run stands, what it costs, and what a change of its file keeps."""
