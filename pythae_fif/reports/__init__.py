"""Tables, figures and the page of an experiment, drawn from records alone."""
