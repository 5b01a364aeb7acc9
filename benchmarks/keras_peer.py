"""The recipe in Keras 3, on the backend that KERAS_BACKEND names: python keras_peer.py DATA.npz."""

import argparse
import json
import tempfile
import time
from pathlib import Path

import keras
import numpy as np


class Clock(keras.callbacks.Callback):
    """Takes the seconds from the beginning to the end of the training."""

    def on_train_begin(self, logs: object = None) -> None:
        self.start = time.perf_counter()

    def on_train_end(self, logs: object = None) -> None:
        self.seconds = time.perf_counter() - self.start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--limit_batches", type=int, default=None)
    parser.add_argument("--files", action="store_true", help="with what our fit leaves: a CSV log and two checkpoints")
    options = parser.parse_args()
    keras.utils.set_random_seed(options.seed)
    data = np.load(options.data)
    train = len(data["train_labels"]) if options.limit_batches is None else options.limit_batches * 128
    pixels = {
        split: data[f"{split}_images"].reshape(-1, 784).astype("float32") / 255 for split in ("train", "val", "test")
    }
    model = keras.Sequential(
        [
            keras.Input((784,)),
            keras.layers.Dense(256, activation="relu"),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.RMSprop(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    clock = Clock()
    callbacks: list[keras.callbacks.Callback] = [clock]
    if options.files:
        folder = Path(tempfile.mkdtemp())
        best, last = folder / "best.keras", folder / "last.keras"
        callbacks += [
            keras.callbacks.CSVLogger(str(folder / "metrics.csv")),
            keras.callbacks.ModelCheckpoint(str(best), monitor="val_loss", save_best_only=True),
            keras.callbacks.ModelCheckpoint(str(last)),
        ]
    history = model.fit(
        pixels["train"][:train],
        data["train_labels"][:train],
        batch_size=128,
        epochs=options.epochs,
        validation_data=(pixels["val"], data["val_labels"]),
        validation_batch_size=2000,
        verbose=2,
        callbacks=callbacks,
    )
    _, accuracy = model.evaluate(pixels["test"], data["test_labels"], batch_size=2000, verbose=0)
    print(
        json.dumps(
            {"fit_seconds": clock.seconds, "val_loss": history.history["val_loss"][-1], "test_accuracy": accuracy}
        )
    )


if __name__ == "__main__":
    main()
