"""Arrays in, arrays out: the numerical core, without labels and without laziness."""
