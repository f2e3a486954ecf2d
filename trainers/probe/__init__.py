"""What frozen features are worth: logistic regression and nearest neighbours."""
