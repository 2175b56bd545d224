"""Studies: experiments that are one command each, and end in a figure, a caption and a table."""
