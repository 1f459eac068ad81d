"""Studies: a file of rows to train with several seeds each, and the table that they come to.

Read study_file.py for what a study may ask, asked.py for what one call of it asks, rows.py for what a row comes to,
work.py for the order in which rows are trained and the test set is read, trainer.py for how they are trained, crew.py
for the processes that do it on a CPU, tables.py for what is written.
"""

from flexor_search.studying.asked import StudyQuestion
from flexor_search.studying.rows import Row, plan_rows
from flexor_search.studying.study_file import StudyFile, read_study
from flexor_search.studying.work import run_study

__all__ = ["Row", "StudyFile", "StudyQuestion", "plan_rows", "read_study", "run_study"]
