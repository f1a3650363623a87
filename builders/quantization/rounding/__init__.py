"""Which code each weight gets, on a given grid."""
