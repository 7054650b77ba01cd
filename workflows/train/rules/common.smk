CHROMATIN_STAGES = config["finetune"]["chromatin"]
LAST_STAGE = f"{OUT}/chromatin/{len(CHROMATIN_STAGES)}/model"
LOCAL = config["finetune"]["local"]
MOTIFS = config["chromatin"]["motifs"]


def given(name):
    """An option of training for an input that may be missing."""
    return lambda wildcards, input: (
        f"--set {name}={input[name]}" if input.get(name) else ""
    )
