"""Questions answered by a bundle and by the float32 reference in the same harness, and prompts that should be refused.

Start at `compare.py` (a folder of tasks → `TaskResult`). `task_files.py` reads the files that a user names;
`harness.py` is the backend of EleutherAI's lm-evaluation-harness, which makes the prompts and judges the answers;
`likelihoods.py` computes what it asks for, and `generation.py` has both write; `drop.py` has the statistics.
`safety.py` compares answers to prompts of red-teaming sets without ever keeping their text.
"""
