"""Why two runs differ: the first rung of the ladder from data to scores on which they part."""
