"""`python -m autograder grade`: a class is graded in parallel, in a sandbox, from outside the student's process.

    intake -> pool -> worker: sandbox with a warm process, a fork a submission <-> oracle -> store -> gradebook, report

What stands inside the sandbox is `zygote`, `shell` and `wire` of this package, and `lora_ref`: no judge, no bank, no
gradebook, no other submission.
"""
