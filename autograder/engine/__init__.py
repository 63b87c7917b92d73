"""From answers to records: a class is graded in parallel, in a sandbox, from outside the students' processes.

    intake -> job -> pool or cluster -> worker: oracle <-> sandbox: warm process, a fork for each submission
    -> store -> gradebook, feedback, report

What enters the sandbox is `inside` and `lora_ref`: no hidden check, no gradebook, no other submission. Nothing here
imports intake, results, publish or a command.
"""
