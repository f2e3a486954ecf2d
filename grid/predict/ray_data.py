"""Prediction with Ray Data: images are read, decoded and classified in order, in bounded memory."""

from collections.abc import Callable

from semigrid.data.ranges import Block, ImageRange
from semigrid.data.schema import Dataset
from semigrid.grid.cluster.machines import Demand
from semigrid.grid.predict.folder import CALIBRATION, PredictionFolder, Summary
from semigrid.grid.predict.images import dataset_images
from semigrid.grid.run.tasks import fitting, ray_for_tasks
from semigrid.trainers.cluster.ray_tasks import work_in_order


def predict_images(
    folder: PredictionFolder,
    dataset: Dataset,
    workers: int | None,
    each: Demand,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Summary:
    """Writes the folder's missing parts and returns the summary.

    Calibrates on the dataset's val first, unless that was done before. Ray runs on this machine, at
    ``RAY_ADDRESS``, or where it runs in this process already.

    Args:
        workers: processes that hold the model; None for all that fit.
        each: what a process holds of a machine.
        progress: receives the number of classified images and of all.

    Raises ``InputError`` for workers that do not fit, ``TaskError`` when processes die, or
    Ray itself: then the ends of its logs are in the folder.
    """
    missing = folder.missing()
    val = {} if folder.calibration else dataset_images(dataset, [CALIBRATION]).parts
    wanted = [*val.values(), *missing.values()]
    total = sum(images.count for images in [*val.values(), *folder.images.parts.values()])
    done = total - sum(images.count for images in wanted)
    progress(done, total)

    def predicted(images: ImageRange) -> Block:
        """The predictions of the next images of the stream."""
        nonlocal done
        made: list[Block] = []
        end = done + images.count
        while done < end:
            made.append(next(blocks))
            done += len(made[-1].ids)
            progress(done, total)
        return Block.joined(made)

    if wanted:
        with ray_for_tasks(folder.storage):
            model = folder.model
            # one stream for all: a process that holds the model starts once
            blocks = work_in_order(wanted, model.views, model.predict, fitting(workers, each))
            if val:
                folder.calibrate(dataset, Block.joined(list(map(predicted, val.values()))))
            for file, images in missing.items():
                folder.write(file, predicted(images))
    return folder.finish()
