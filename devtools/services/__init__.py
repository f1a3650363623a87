"""Servers as a team runs them, started on this machine: S3, PostgreSQL, MLflow. For the tests and `make services`."""
