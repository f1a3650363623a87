"""Starts the servers of a typical team on this machine: S3, PostgreSQL, MLflow. For the tests and `make services`."""
