"""Many runs from one file: methods x datasets x seeds, each in a process of its own.

Nothing here imports torch: the sweep starts at once, and a run that crashes or is killed cannot take it along.
"""
