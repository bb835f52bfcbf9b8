"""One paired verdict for CI: did the candidate lose against the baseline?"""
