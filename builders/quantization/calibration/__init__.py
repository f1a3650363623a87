"""What matrices are multiplied with, measured in one float32 walk over a calibration text."""
