"""The bar of a training run carries the latest numbers; where there is no bar, nothing changes."""

import pytest
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainingArguments

from instruct.trainers.progress import LatestOnBar, show_on_bar


def callbacks_of(trainer) -> list[type]:
    return [type(callback) for callback in trainer.callback_handler.callbacks]


@pytest.fixture()
def trainer(tiny_model, tmp_path):
    from transformers import AutoModelForCausalLM

    def made(**flags):
        args = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True, **flags)
        return Trainer(AutoModelForCausalLM.from_pretrained(tiny_model), args)

    return made


def test_the_latest_numbers_are_on_the_bar_and_no_lines_above_it(trainer, capsys):
    trainer = trainer()
    show_on_bar(trainer, loss="loss", kl="objective/kl")
    assert ProgressCallback not in callbacks_of(trainer)
    bar = next(c for c in trainer.callback_handler.callbacks if isinstance(c, LatestOnBar))
    trainer.state.max_steps, trainer.state.is_world_process_zero = 4, True
    bar.on_train_begin(trainer.args, trainer.state, trainer.control)
    bar.on_log(trainer.args, trainer.state, trainer.control, logs={"loss": 2.0, "objective/kl": 1})
    # an evaluation logs other numbers: the last of these stay
    bar.on_log(trainer.args, trainer.state, trainer.control, logs={"eval_loss": 3.0})
    assert bar.training_bar.postfix == "loss=2.000, kl=1.000"
    bar.on_train_end(trainer.args, trainer.state, trainer.control)
    assert "{" not in capsys.readouterr().out


def test_without_a_bar_the_lines_stay(trainer):
    trainer = trainer(disable_tqdm=True)
    show_on_bar(trainer, loss="loss")
    assert LatestOnBar not in callbacks_of(trainer) and PrinterCallback in callbacks_of(trainer)
