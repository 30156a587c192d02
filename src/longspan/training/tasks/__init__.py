"""Training, evaluation and prediction of the published tasks from their official files."""

from longspan.training.tasks.plan import TaskPlan, make_task_plan
from longspan.training.tasks.prediction import OfficialEvaluation, evaluate_official, judge_official, predict_official
from longspan.training.tasks.run import TaskResult, finetune_task
from longspan.training.tasks.saved import SavedTask

__all__ = [
    "OfficialEvaluation",
    "SavedTask",
    "TaskPlan",
    "TaskResult",
    "evaluate_official",
    "finetune_task",
    "judge_official",
    "make_task_plan",
    "predict_official",
]
