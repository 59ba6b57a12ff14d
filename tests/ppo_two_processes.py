"""Run by torchrun in tests/instruct/trainers/ppo/test_ppo_gradients.py: first gradients on this
many processes, written by rank 0.
"""

import json
import sys
from pathlib import Path

from ppo_tools import first_gradients, make_trainer
from safetensors.torch import save_file

from instruct.runs import end_process_group

if __name__ == "__main__":
    setup, out, settings = json.loads(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    trainer = make_trainer(setup, out, ddp_backend="gloo", **settings)
    assert trainer.args.world_size == 2
    gradients = first_gradients(trainer)
    assert type(trainer.model_wrapped).__name__ == "DistributedDataParallel"
    if trainer.is_world_process_zero():
        save_file(gradients, out / "gradients.safetensors")
    end_process_group()
