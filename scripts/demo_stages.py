"""The stages of `train_demo.py`: what is trained, in which order, from what, and on which pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace

RESULT = "model.safetensors"
PLAIN, PHOTO, HELD_OUT = ("plain", 0), ("photo", 1), ("photo", 900_000)  # kinds of pictures with their seeds


@dataclass(frozen=True)
class Task:
    """A training. `words`: of `sdic-train`, where {NAME} is the folder of another task's run, {start} that of `start`, {sizes} and {size}
    what the model has. `share`: of its chain's time. `batch`: pictures of a step on a GPU. `grows`: a generator, whose next size needs its
    discriminator too. `graphs`: whether its steps can be recorded. `more`: whether it can start from its own result."""

    name: str
    words: tuple[str, ...]
    share: float = 1.0
    start: str = ""
    batch: int = 32
    grows: bool = False
    graphs: bool = False
    more: bool = True


@dataclass(frozen=True)
class Stage:
    """`chains`: side by side, each of trainings one after the other; or `work` that is not a training. `needs`: the stages before it."""

    name: str
    pictures: tuple[tuple[str, int], ...]
    chains: tuple[tuple[Task, ...], ...] = ()
    work: bool = False
    needs: tuple[str, ...] = ()

    @property
    def tasks(self) -> list[Task]:
        return [task for chain in self.chains for task in chain]


def reader(name: str, seed: int) -> Task:
    return Task(name, ("reader", "--set", f"seed={seed}"), batch=64, more=False)


def generator(name: str, start: str, size: str, recipe: str, share: float = 1.0, *more: str) -> Task:
    begin = ("--from", "{start}") if start else ()
    words = ("generator", "--sizes", "{sizes}", "--recipe", recipe, "--set", f"size={size}", *begin, *more)
    return Task(name, words, share, start, grows=True)


READ = ("--reader", f"{{reader}}/{RESULT}")
JUDGED = ("--perceptual", f"{{reader}}/{RESULT}", "--identity", f"{{reader}}/{RESULT}")
ENCODER = ("encoder", "--generator", f"{{sharpen}}/{RESULT}")
SDIC = ("sdic", *JUDGED, "--data-seed", "1", "--model", f"{{start}}/{RESULT}", "--recipe")
FITS = {  # by size: what is fitted with a reader; the generator grows
    128: (generator("g128", "g64", "128", "fit-128", 1.0, *READ),),
    256: (generator("g128", "g64", "128", "fit-128", 0.4, *READ), generator("g256", "g128", "256", "fit-128", 0.6, *READ)),
}


def stages(size: int) -> tuple[Stage, ...]:
    """The chain for pictures of `size`, in its order."""
    small = (
        generator("g16", "", "16", "fit-16", 0.3),
        generator("g32", "g16", "32", "fit-32", 0.2),
        generator("g64", "g32", "64", "fit-64", 0.5),
    )
    code = Task("code", (*ENCODER, "--recipe", "code"), 0.6, graphs=True)
    picture = Task("picture", (*ENCODER, "--recipe", "picture", "--from", f"{{start}}/{RESULT}", *JUDGED), 0.4, "code", graphs=True)
    sdic = (
        Task("sdic", (*SDIC, "demo"), 0.4, "picture", 16, graphs=True),
        Task("sdic_longer", (*SDIC, "demo-longer"), 0.35, "sdic", 16, graphs=True),
        Task("sdic_edits", (*SDIC, "demo-longer", "--set", "edit=0.3"), 0.25, "sdic_longer", 16, graphs=True),
    )
    sharpen = generator("sharpen", FITS[size][-1].name, str(size), "sharpen-128", 1.0, *READ)
    found = (
        Stage("begin", (PLAIN, PHOTO), ((reader("reader", 0),), (reader("judge", 1),), small)),
        Stage("fit", (PLAIN,), (FITS[size],)),
        Stage("sharpen", (PLAIN,), ((sharpen,),)),
        Stage("encoder", (PLAIN, PHOTO), ((code, picture),)),
        Stage("sdic", (PHOTO,), (sdic,)),
        Stage("directions", (), work=True),
        Stage("evaluation", (HELD_OUT,), work=True),
        Stage("bundle", (HELD_OUT,), work=True),
    )
    names = [stage.name for stage in found]
    return tuple(replace(stage, needs=tuple(names[:index])) for index, stage in enumerate(found))
