CHROMATIN_STAGES = config["finetune"]["chromatin"]


def is_last(wildcards):
    return int(wildcards.stage) == len(CHROMATIN_STAGES)


def given(name):
    """An option of training for an input that may be missing."""
    return lambda wildcards, input: (
        f"--set {name}={input[name]}" if input.get(name) else ""
    )
