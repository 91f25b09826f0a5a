"""The checks, one module per role. Each is ``check_NAME(case)``: an assertion fails, or ``Skip`` says why there is nothing to check.

The modules import nothing heavy at the top; torch comes with the first check that runs.
"""
