"""One Ray Tune run over the whole grid."""
