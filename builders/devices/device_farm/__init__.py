"""AWS Device Farm: phones by the minute, through boto3.

- `client.py`: the service's calls, the only place here that knows boto3. `states.py`: what its states mean.
- `package.py`: what is uploaded. `provider.py`: upload, schedule, poll, fetch, clean up; stops what it started.
"""
