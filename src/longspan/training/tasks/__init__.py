"""Training, evaluation and prediction of the published tasks from their official files."""

from longspan.training.tasks.plan import TaskPlan, make_task_plan
from longspan.training.tasks.run import TaskResult, finetune_task

__all__ = ["TaskPlan", "TaskResult", "finetune_task", "make_task_plan"]
