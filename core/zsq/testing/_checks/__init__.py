"""The checks, one module per role. Each is ``check_NAME(case)``: an assertion fails, ``Skip`` says there is nothing to check.

The modules import nothing heavy at the top; torch comes with the first check that runs.
"""
