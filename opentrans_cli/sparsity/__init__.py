"""Which weights are kept: criteria, patterns, schedules and masks.

criteria/     a tower -> scores of its weights, the lowest are removed first
patterns/     scores -> masks of one form: any weight, a fraction of every layer, N of every M, whole channels
selection.py  exactly the lowest scores of many layers, without a copy of them
schedule.py   how sparsity grows from round to round
masking.py    masks put on a module and held there
control.py    random masks with the counts of a run
"""
