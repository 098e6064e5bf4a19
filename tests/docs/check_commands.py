"""Compares commands with the programs; a process of its own, as flags are global.

Reads `[[program, words], ...]` as JSON, writes one message per command that is wrong.
"""

import importlib
import importlib.util
import json
import sys

from absl import flags

from experiments import common

EXPERIMENTS = (
    "relational_inference",
    "search_scaling",
    "situations",
    "hidden",
    "real_data",
    "metanet_sine",
    "metanet_accuracy",
    "metanet_modules",
    "metanet_editing",
)
OTHERS = (
    "experiments.metanet_accuracy.prepare_images",
    "experiments.metanet_accuracy.table",
    "experiments.real_data.prepare",
)
ALWAYS = {"help"}
# How pages write "any option".
PLACEHOLDERS = ("", "path=value")


def flags_of(module):
    """Names of the flags that a program defines; takes them away again."""
    before = set(flags.FLAGS)
    importlib.import_module(module)
    names = set(flags.FLAGS) - before
    for name in names:
        delattr(flags.FLAGS, name)
    return names


def problem(words, names, configs):
    """What is wrong with some words for one program, or None."""
    assignments = []
    config = None
    for word in words:
        name, _, value = word.removeprefix("--").partition("=")
        if name == "set" and value not in PLACEHOLDERS:
            assignments.append(value)
        elif name == "config" and value in configs:
            config = value
        if name not in names | ALWAYS:
            return f"no flag --{name}"
    if not assignments:
        return None
    found = None
    for preset in [config] if config else configs:
        try:
            common.apply_assignments(configs[preset](), assignments)
        except ValueError as error:
            found = str(error)
        else:
            return None
    return found


def main():
    programs = {}
    for name in EXPERIMENTS:
        module = f"experiments.{name}.main"
        configs = importlib.import_module(f"experiments.{name}.config").CONFIGS
        programs[module] = flags_of(module), configs
    for module in OTHERS:
        programs[module] = flags_of(module), {}
    messages = []
    for program, words in json.load(sys.stdin):
        if program in programs:
            message = problem(words, *programs[program])
        elif program:
            is_there = importlib.util.find_spec(program) is not None
            message = None if is_there else f"no module {program}"
        else:
            tries = [problem(words, *known) for known in programs.values()]
            message = None if None in tries else "; ".join(map(str, tries))
        if message:
            messages.append(f"{program} {' '.join(words)}: {message}")
    json.dump(messages, sys.stdout)


if __name__ == "__main__":
    main()
