"""Tables, figures and the page of an experiment, made from the records of its runs only."""
