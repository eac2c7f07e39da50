"""Whole experiments, continued where they were interrupted, with a report one can read.

`analyse(f, [params, ...], x, y)` asks your own model what its gates know at each of its checkpoints;
`run_study(StudyConfig(...), folder)` trains a network and follows its kernels through training;
`run_comparison(CompareConfig(...), folder)` compares finite with infinite width; `reproduce(table, ...)` runs one
table of the papers. `write_report` and `write_comparison_report` make the pages, all from the files of a run, and
`verify(folder)` says whether these are as they were written.
"""

from npk.studies.analysis import Analysis as Analysis
from npk.studies.analysis import AnalysisConfig as AnalysisConfig
from npk.studies.analysis import analyse as analyse
from npk.studies.comparison import CompareConfig as CompareConfig
from npk.studies.comparison import run_comparison as run_comparison
from npk.studies.flow import CASES as CASES
from npk.studies.flow import KERNELS as KERNELS
from npk.studies.pages.comparison_page import accuracy_intervals as accuracy_intervals
from npk.studies.pages.comparison_page import mean_accuracies as mean_accuracies
from npk.studies.pages.comparison_page import write_comparison_report as write_comparison_report
from npk.studies.pages.study_page import write_report as write_report
from npk.studies.published import TABLES as TABLES
from npk.studies.regression import LABELS as LABELS
from npk.studies.reproduction import Scale as Scale
from npk.studies.reproduction import reproduce as reproduce
from npk.studies.reproduction import table_rows as table_rows
from npk.studies.run_folder import read_study as read_study
from npk.studies.settings import setting_of as setting_of
from npk.studies.training_study import StudyConfig as StudyConfig
from npk.studies.training_study import run_study as run_study
from npk.studies.verification import Verdict as Verdict
from npk.studies.verification import verify as verify
from npk.studies.widths import CURVES as CURVES
from npk.studies.widths import NETWORKS as NETWORKS

__all__ = [
    "Analysis",
    "AnalysisConfig",
    "CompareConfig",
    "Scale",
    "StudyConfig",
    "TABLES",
    "Verdict",
    "accuracy_intervals",
    "analyse",
    "mean_accuracies",
    "read_study",
    "reproduce",
    "run_comparison",
    "run_study",
    "table_rows",
    "verify",
    "write_comparison_report",
    "write_report",
]
