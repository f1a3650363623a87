"""A release in the forms that CI services show. Pure: a report of `phipack.api.results` in, text out.

junit.py         JUnit XML: a cell is a test case, a failed gate a failure (GitLab, Jenkins, Buildkite, Azure)
open_metrics.py  every figure of every cell, for GitLab's metrics reports and for Prometheus
github.py        a step summary in Markdown, and annotations, for GitHub Actions
matrix_formats.py  the jobs that would run, as a matrix of GitHub Actions or a child pipeline of GitLab
"""
