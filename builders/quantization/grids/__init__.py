"""What a block of a row can hold: one file for each kind of block."""
