"""The progress bar of a training run, with its latest numbers on it instead of lines above it."""

from transformers import ProgressCallback, Trainer


class LatestOnBar(ProgressCallback):
    """The progress bar, with the latest numbers of the log on it.

    Args:
        names: {word on the bar: name in the log}.
    """

    def __init__(self, names: dict[str, str]):
        super().__init__()
        self.names = names
        self.latest: dict[str, str] = {}

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is None:
            return
        # the whole log is in trainer_state.json, and with whatever --report_to names
        found = {word: (logs or {}).get(name) for word, name in self.names.items()}
        self.latest |= {word: f"{value:.3f}" for word, value in found.items() if value is not None}
        self.training_bar.set_postfix(self.latest)


def show_on_bar(trainer: Trainer, **names: str) -> None:
    """Shows what `names` ({word: name in the log}) names on the trainer's bar, if it has one."""
    callbacks = trainer.callback_handler.callbacks
    # in a notebook there is a table instead; with --disable_tqdm lines
    if any(type(callback) is ProgressCallback for callback in callbacks):
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(LatestOnBar(names))
