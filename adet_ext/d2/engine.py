"""Training loop, hooks, default trainer and predictor, and the start of jobs of several processes.

``launch`` joins the job where torchrun has started the processes, with either engine.
"""

from . import ENGINE

if ENGINE == "detectron2":
    from detectron2.engine import (
        AMPTrainer,
        DefaultTrainer,
        HookBase,
        SimpleTrainer,
        TrainerBase,
        create_ddp_model,
        default_argument_parser,
        default_setup,
        default_writers,
        hooks,
    )
    from detectron2.engine import launch as _detectron2_launch
    from detectron2.engine.launch import DEFAULT_TIMEOUT
    from detectron2.utils.comm import create_local_process_group as _create_local_group

    from .embedded.utils.launch import join_torchrun, started_by_torchrun

    def launch(
        main_func,
        num_gpus_per_machine,
        num_machines=1,
        machine_rank=0,
        dist_url=None,
        args=(),
        timeout=DEFAULT_TIMEOUT,
    ):
        """Detectron2's ``launch``, which by itself does not know processes that torchrun has started."""
        if started_by_torchrun():
            return join_torchrun(main_func, args, timeout, create_local_group=_create_local_group)
        return _detectron2_launch(
            main_func, num_gpus_per_machine, num_machines, machine_rank, dist_url or "auto", args, timeout
        )
else:
    from .embedded.engine import (
        DEFAULT_TIMEOUT,
        AMPTrainer,
        DefaultTrainer,
        HookBase,
        SimpleTrainer,
        TrainerBase,
        create_ddp_model,
        default_argument_parser,
        default_setup,
        default_writers,
        hooks,
        launch,
    )

__all__ = [
    "AMPTrainer",
    "DEFAULT_TIMEOUT",
    "DefaultTrainer",
    "HookBase",
    "SimpleTrainer",
    "TrainerBase",
    "create_ddp_model",
    "default_argument_parser",
    "default_setup",
    "default_writers",
    "hooks",
    "launch",
]
